"""The vLLM engine: the same targets, with vLLM's batching, kernels and quantised weights.

Answers are made token by token by vLLM, whose every step shows its logits to `vllm_capture` in the worker; any scheme
is exact there. Given text is the same walk with the tokens forced, unless the k most probable ids say it all: those
vLLM gives of a whole text in one pass. The one rank of a worker group has the engine in its own process and, for tensor
parallelism, workers beside it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from workers.failures import OutOfMemory
from workers.fetching.folder import model_folder
from workers.model_files import expert_count, read_model_config, stop_ids
from workers.model_sizes import ModelSize, model_size
from workers.targets.encoding.arrays import UnitTargets
from workers.teacher.config import TeacherConfig
from workers.teacher.engine import CaptureSpec, TextRequest
from workers.teacher.engines import vllm_scores
from workers.teacher.engines.row_capture import RowCapture
from workers.teacher.engines.vllm_settings import engine_arguments, set_environment
from workers.teacher.generation.detokenize import texts_and_ends
from workers.teacher.generation.loop import Ends
from workers.teacher.sampling.capture import CaptureBuffer


@dataclass
class _Text:
    """One request on its way through vLLM."""

    request: TextRequest
    start: int
    """Its first target position."""
    fed: int
    """Tokens that vLLM is given at once; the others that are known are walked through."""
    new: int
    """Tokens that vLLM makes at most, those walked through included."""
    scored: bool
    """Whether the log-probabilities of the fed tokens are asked for."""
    ids: list[int] = field(default_factory=list)

    @staticmethod
    def of(request: TextRequest, spec: CaptureSpec, vocabulary: int) -> _Text:
        known = len(request.prompt_token_ids) + len(request.answer_token_ids or ())
        start = 1 if spec.positions == "all" else len(request.prompt_token_ids)
        made = 0 if request.answer_token_ids is not None else request.max_new_tokens
        scored = known > start and vllm_scores.scores_suffice(spec, vocabulary)
        fed = known if scored else min(start, known)
        ids = request.prompt_token_ids + (request.answer_token_ids or [])
        return _Text(request, start, fed, known - fed + made, scored, ids[:fed])

    def append(self, new: list[int], ends: Ends) -> bool:
        """Put new tokens at the end; whether they complete an answer."""
        if not self.new:
            return False  # of a prompt that is only scored; vLLM makes one all the same
        for token in new:
            self.ids.append(token)
            answer = self.ids[len(self.request.prompt_token_ids) :]
            if self.request.answer_token_ids is None and answer and ends.reached(self.request, answer):
                return True
        return False


class VllmEngine:
    """A model in vLLM."""

    def __init__(self, config: TeacherConfig, *, device: str = "cpu") -> None:
        set_environment(config)
        from transformers import AutoConfig, AutoTokenizer
        from vllm import EngineArgs
        from vllm.v1.engine.llm_engine import LLMEngine

        self.config, self.steps, self.at_work, self._calls = config, 0, 0, 0
        folder = model_folder(config.model, config.revision)
        trust = config.trust_remote_code
        self.tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust)
        model_config = AutoConfig.from_pretrained(folder, trust_remote_code=trust)
        self.stop_ids = stop_ids(self.tokenizer, model_config)
        self._vocabulary = int(model_config.get_text_config().vocab_size)
        size, experts = model_size(folder) or ModelSize(0), expert_count(read_model_config(folder))
        self._weights = size.dense + size.experts
        arguments = engine_arguments(config, str(folder), device=device, experts=experts)
        self._engine = LLMEngine.from_engine_args(EngineArgs(**arguments))
        self._instance = self._engine.vllm_config.instance_id

    def describe(self) -> dict[str, Any]:
        """Facts for the record: weights of this rank (of the checkpoint: vLLM packs them), their type, where they are,
        what ends an answer."""
        model = self._engine.vllm_config.model_config
        return {
            "engine": "vllm",
            "weights_held": self._weights,
            "dtype": str(model.dtype).removeprefix("torch."),
            "device": self._engine.vllm_config.device_config.device_type,
            "stop_ids": sorted(self.stop_ids),
        }

    def run(
        self,
        requests: list[TextRequest],
        spec: CaptureSpec,
        *,
        batch_scale: float = 1.0,
        texts: bool = True,
        then: Sequence[TextRequest] = (),
    ) -> UnitTargets:
        """Make or score texts (TeacherEngine.run). `batch_scale` is the share of `batch` that is in flight at once.
        Nothing of the next call is begun."""
        from workers.teacher.engines.vllm_capture import begin, finish

        vocabulary = self._trimmed(spec.vocabulary)
        made = [_Text.of(r, spec, vocabulary) for r in requests]
        capture = RowCapture(requests, spec, self.stop_ids, [t.fed for t in made])
        self._engine.collective_rpc(begin, args=(self._instance, capture))
        scores = self._walk(made, spec, most=max(1, int(self.config.slots * batch_scale)))
        buffer = self._engine.collective_rpc(finish, args=(self._instance,))[0]
        for text, found in scores.items():
            _add_scores(buffer, text, made[text], spec, *found)
        targets = buffer.finish([t.ids for t in made], [t.start for t in made])
        if texts:
            targets.texts, targets.ends = texts_and_ends(self.tokenizer, [t.ids for t in made])
        return targets

    def _trimmed(self, vocabulary: int) -> int:
        """Ids that are in vLLM's logits, after its cutting off those beyond the tokenizer where it can."""
        from workers.teacher.engines.vllm_capture import trim

        if vocabulary < self._vocabulary and all(self._engine.collective_rpc(trim, args=(vocabulary,))):
            self._vocabulary = vocabulary
        return self._vocabulary

    def _walk(self, texts: list[_Text], spec: CaptureSpec, *, most: int) -> dict[int, tuple[np.ndarray, np.ndarray]]:
        """Step until all texts are complete, `most` of them at once; returns the scores that were asked for."""
        ends = Ends(self.stop_ids, self._decode)
        waiting = deque(i for i, t in enumerate(texts) if t.new or t.scored)
        live: dict[str, int] = {}
        scores: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        self._calls += 1
        try:
            while True:
                while waiting and len(live) < most:
                    live |= self._add(waiting.popleft(), texts, spec)
                if not self._engine.has_unfinished_requests():
                    return scores
                self.steps, self.at_work = self.steps + 1, len(live)
                for output in self._step():
                    text = live[output.request_id]
                    if output.prompt_logprobs:
                        flat, k = output.prompt_logprobs, vllm_scores.kept_ids(spec)
                        scores[text] = vllm_scores.scores(flat.token_ids, flat.logprobs, k)
                    complete = texts[text].append(list(output.outputs[0].token_ids), ends)
                    if complete and not output.finished:
                        self._engine.abort_request([output.request_id])
                    if complete or output.finished:
                        del live[output.request_id]
        finally:
            self.at_work = 0
            if live:
                self._engine.abort_request(list(live))

    def _add(self, index: int, texts: list[_Text], spec: CaptureSpec) -> dict[str, int]:
        """Give a text to vLLM; returns the name under which it comes back."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        from workers.teacher.engines.vllm_capture import TEXT

        text, name = texts[index], f"{self._calls}.{index}"
        params = SamplingParams(
            temperature=0,
            max_tokens=text.new or 1,
            ignore_eos=True,
            prompt_logprobs=vllm_scores.kept_ids(spec) if text.scored else None,
            flat_logprobs=True,
            detokenize=False,
            output_kind=RequestOutputKind.DELTA,
            extra_args={TEXT: index} if text.new else None,
        )
        self._engine.add_request(name, {"type": "token", "prompt_token_ids": list(text.ids)}, params)
        return {name: index}

    def _step(self) -> list[Any]:
        import torch

        try:
            return self._engine.step()
        except torch.OutOfMemoryError as error:
            raise OutOfMemory(str(error)) from error

    def _decode(self, ids: list[int]) -> str:
        return self.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)


def _add_scores(
    buffer: CaptureBuffer, row: int, text: _Text, spec: CaptureSpec, ids_nK1: np.ndarray, logp_nK1: np.ndarray
) -> None:
    """Put the scores of a text's fed tokens into the buffer; the first row is that of the second token."""
    ids_nK1, logp_nK1 = ids_nK1[text.start - 1 :], logp_nK1[text.start - 1 :]
    positions = np.arange(text.start, text.start + len(ids_nK1))
    rows = np.full(len(positions), row)
    buffer.add_kept(rows, positions, vllm_scores.kept_of_scores(ids_nK1, logp_nK1, buffer.uniforms(rows, positions)))
    if spec.marginal:
        buffer.add_marginal(vllm_scores.expected(ids_nK1, logp_nK1, spec.vocabulary))
