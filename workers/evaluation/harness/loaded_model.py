"""A model that is loaded already, as lm-evaluation-harness asks models.

Its own class for transformers models would make the logits of whole batches at once; here a model runs in two parts, as
it does for all other scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

from lm_eval.models.huggingface import HFLM

from workers.evaluation.harness.loading import quiet
from workers.evaluation.tasks.asking import Ids, continuation_logprobs
from workers.two_part_model import TwoPartModel

_WINDOWS = 64
"""Windows of long texts that are asked about at once; batches are made of them."""

_ANSWER_TOKENS = 256
"""Tokens that a task's answer may have where it does not say, by lm-evaluation-harness."""


class LoadedModel(HFLM):
    """A TwoPartModel with its tokenizer."""

    def __init__(self, model: TwoPartModel, tokenizer: Any, batch_tokens: int, stop_ids: Sequence[int]) -> None:
        """`batch_tokens`: tokens at once, with padding. `stop_ids`: ids that end an answer."""
        tokenizer = deepcopy(tokenizer)  # it is given a padding token
        if tokenizer.eos_token_id is None:
            tokenizer.eos_token = tokenizer.convert_ids_to_tokens(stop_ids[0] if stop_ids else 0)
        with quiet():
            super().__init__(pretrained=model.model, tokenizer=tokenizer, batch_size=_WINDOWS)
        self._two_parts, self._batch_tokens = model, batch_tokens
        self._stop_ids = sorted({*stop_ids, tokenizer.eos_token_id})

    def loglikelihood(self, requests: Any, disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        """Of each continuation behind its text: log-probability, and whether it is the greedy one."""
        return super().loglikelihood(requests, disable_tqdm=True)

    def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = True) -> list[float]:
        """Log-probability of each text."""
        return super().loglikelihood_rolling(requests, disable_tqdm=True)

    def _loglikelihood_tokens(
        self, requests: Any, disable_tqdm: bool = True, override_bs: int | None = None
    ) -> list[tuple[float, bool]]:
        pairs: list[tuple[Ids, Ids]] = []
        for texts, context, continuation in requests:
            if not continuation:
                raise ValueError(f"{texts[1]!r} adds no token to the text before it; let a space begin it")
            if len(continuation) > self.max_length:
                raise ValueError(f"an answer has {len(continuation)} tokens, and the model holds {self.max_length}")
            text = [*context, *continuation][-(self.max_length + 1) :]  # a longer one loses its beginning
            pairs.append((tuple(text[: -len(continuation)]), tuple(continuation)))
        sums, greedy = continuation_logprobs(self._two_parts, pairs, None, self._batch_tokens)
        return list(zip(sums.tolist(), greedy.tolist(), strict=True))

    def generate_until(self, requests: Any, disable_tqdm: bool = True) -> list[str]:
        """What is written behind each text, up to a string that ends it."""
        longest = max(
            len(self.tok_encode(text)) + int(how.get("max_gen_toks", _ANSWER_TOKENS))
            for text, how in (request.args[:2] for request in requests)
        )
        self.batch_size_per_gpu = max(1, self._batch_tokens // longest)
        return super().generate_until(requests, disable_tqdm=True)

    def _model_generate(self, context: Any, max_length: int, stop: list[str], **how: Any) -> Any:
        # Without ids that end it, a text in a batch goes on behind the end, which decoding then leaves out.
        return super()._model_generate(context, max_length, stop, eos_token_id=self._stop_ids, **how)
