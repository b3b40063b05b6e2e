"""The transformers engine: generates and captures in one pass, or scores given text, on one rank of a worker group.

In `all_to_all` every rank has texts of its own, and all ranks must take the same number of forward passes: batch
counts are agreed on first, and while texts grow a rank without work runs a dummy until no rank has any.
In `all_reduce` all ranks run the same texts; rank 0 samples, captures and broadcasts.

Legend: B texts, S tokens, n positions, H hidden size, V model vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from workers.model_files import model_folder, stop_ids
from workers.targets.encoding.arrays import UnitTargets
from workers.teacher.config import TeacherConfig
from workers.teacher.engine import CaptureSpec, TextRequest
from workers.teacher.engines.loading import load_teacher, weights_held
from workers.teacher.generation.batches import HEAD_NUMBERS, by_tokens
from workers.teacher.generation.choice import TokenChoice
from workers.teacher.generation.detokenize import texts_and_ends
from workers.teacher.generation.loop import Ends, Generation, pad
from workers.teacher.sampling.capture import CaptureBuffer
from workers.two_part_model import TwoPartModel

_DUMMY = [TextRequest("dummy", 0, [0, 0], None)]
"""What a rank without work runs, so that its peers' collectives are answered."""


@dataclass
class _Texts:
    """What one call of `run` makes: its requests, the texts so far [row: ids], their targets so far."""

    requests: list[TextRequest]
    spec: CaptureSpec
    buffer: CaptureBuffer
    ids: list[list[int]]

    def start(self, row: int) -> int:
        """The first target position of a text: its second token, or the first of its answer."""
        return 1 if self.spec.positions == "all" else len(self.requests[row].prompt_token_ids)


class TransformersEngine:
    """One rank's part of a transformers model. The worker group's process group exists before it is made."""

    def __init__(self, config: TeacherConfig, *, rank: int = 0, ranks: int = 1, device: str = "cpu") -> None:
        from transformers import AutoTokenizer

        self.config, self.rank, self.ranks, self.device = config, rank, ranks, device
        self.model = load_teacher(config, ranks=ranks, device=device)
        self._parts = TwoPartModel(self.model, device)
        folder = model_folder(config.model, config.revision)
        self.tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=config.trust_remote_code)
        self.stop_ids = stop_ids(self.tokenizer, self.model.config)
        self._own_texts = ranks > 1 and config.dispatch == "all_to_all"
        self._shared_texts = ranks > 1 and not self._own_texts
        self._captures = rank == 0 or self._own_texts

    @cached_property
    def _head_is_plain(self) -> bool:
        return self._parts.head_is_plain()

    @property
    def steps(self) -> int:
        """Forward passes so far (TeacherEngine.steps)."""
        return self._parts.steps

    def describe(self) -> dict[str, Any]:
        """Facts for the record: weights that this rank holds, their type, where they are, what ends an answer."""
        return {
            "weights_held": weights_held(self.model),
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "device": self.device,
            "head_apart": self._parts.parted,
            "stop_ids": sorted(self.stop_ids),
        }

    @torch.no_grad()
    def run(
        self, requests: list[TextRequest], spec: CaptureSpec, *, batch_scale: float = 1.0, texts: bool = True
    ) -> UnitTargets:
        """Make or score texts (TeacherEngine.run). Rows come back in the order of the requests."""
        if spec.scheme == "hidden" and not self._head_is_plain:
            raise ValueError(
                f"targets: hidden, but {self.model.config.model_type} makes its logits by more than a matrix, so that "
                "hidden states do not say all; take evaluate.targets: full, and another targets.scheme"
            )
        made = _Texts(requests, spec, CaptureBuffer(requests, spec), [[] for _ in requests])
        asked = [i for i, r in enumerate(requests) if r.answer_token_ids is None and r.max_new_tokens > 0]
        given = sorted(set(range(len(requests))) - set(asked))
        tokens = max(1, int(self.config.score_tokens * batch_scale))
        for batch in self._agreed(by_tokens(given, requests, tokens)):
            self._score(batch, made)
        self._generate(asked, made, slots=max(1, int(self.config.slots * batch_scale)), tokens=tokens)
        targets = made.buffer.finish(made.ids, [made.start(i) for i in range(len(requests))])
        if texts:
            targets.texts, targets.ends = texts_and_ends(self.tokenizer, made.ids)
        return targets

    def _score(self, batch: list[int], texts: _Texts) -> None:
        """One forward pass over given texts."""
        items = [texts.requests[i] for i in batch] or _DUMMY
        sequences = [r.prompt_token_ids + (r.answer_token_ids or []) for r in items]
        ids_BS, mask_BS = pad(sequences, left=False)
        hidden_BSH = self._parts.body(ids_BS, mask_BS)
        if not batch:
            return
        rows, positions, tokens, before = [], [], [], []
        for b, i in enumerate(batch):
            texts.ids[i] = sequences[b]
            span = np.arange(texts.start(i), len(sequences[b]))
            rows.append(np.full(len(span), i))
            positions.append(span)
            tokens += sequences[b][texts.start(i) :]
            before.append(hidden_BSH[b, span - 1])
        self._capture(texts, np.concatenate(rows), np.concatenate(positions), torch.cat(before), torch.tensor(tokens))

    def _generate(self, asked: list[int], texts: _Texts, *, slots: int, tokens: int) -> None:
        """Answer prompts, capturing as it goes."""
        ends = Ends(self.stop_ids, self._decode)
        work = Generation(self._parts, texts.requests, asked, ends, slots=slots)
        choice = TokenChoice(texts.requests, texts.spec, self.stop_ids)

        def choose(texts_n: np.ndarray, hidden_nH: torch.Tensor) -> torch.Tensor:
            positions_n = np.array([len(work.texts[i]) for i in texts_n])
            tokens_n = torch.zeros(len(texts_n), dtype=torch.long, device=hidden_nH.device)
            for place, logits_nV in self._parts.logits_by_chunk(hidden_nH, HEAD_NUMBERS):
                if self._captures:
                    probs = texts.buffer.probs(logits_nV)
                    tokens_n[place] = choice(texts_n[place], positions_n[place], logits_nV, probs)
                    hidden = hidden_nH[place] if self._parts.parted else None
                    texts.buffer.add_probs(texts_n[place], positions_n[place], probs, tokens_n[place], hidden)
            if self._shared_texts:
                dist.broadcast(tokens_n, 0)
            return tokens_n

        def prefilled(text: int, hidden_PH: torch.Tensor) -> None:
            prompt = texts.requests[text].prompt_token_ids
            if texts.spec.positions == "all" and len(prompt) > 1:
                positions = np.arange(1, len(prompt))
                rows = np.full(len(positions), text)
                self._capture(texts, rows, positions, hidden_PH[:-1], torch.tensor(prompt[1:]))

        while self._any_rank(work.wants_to_join or work.live):
            if work.wants_to_join:
                work.join(choose, prefilled, tokens=tokens)
            elif work.live:
                work.step(choose)
            else:
                work.idle_step()
        for i in asked:
            texts.ids[i] = work.texts[i]

    def _capture(
        self, texts: _Texts, rows: np.ndarray, positions: np.ndarray, before_nH: torch.Tensor, tokens_n: torch.Tensor
    ) -> None:
        """Capture the distributions at positions of texts, from the hidden states of the tokens before them."""
        tokens_n = tokens_n.to(self.device)
        for place, logits_nV in self._parts.logits_by_chunk(before_nH, HEAD_NUMBERS):
            if self._captures:
                hidden = before_nH[place] if self._parts.parted else None
                texts.buffer.add(rows[place], positions[place], logits_nV, tokens_n[place], hidden)

    def _decode(self, ids: list[int]) -> str:
        return self.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)

    def _agreed(self, batches: list[list[int]]) -> list[list[int]]:
        """The batches, with empty ones at the end so that all ranks run equally many."""
        if not self._own_texts:
            return batches
        count = torch.tensor(len(batches), device=self.device)
        dist.all_reduce(count, dist.ReduceOp.MAX)
        return batches + [[] for _ in range(int(count) - len(batches))]

    def _any_rank(self, works: bool) -> bool:
        if not self._own_texts:
            return works
        flag = torch.tensor(int(works), device=self.device)
        dist.all_reduce(flag, dist.ReduceOp.MAX)
        return bool(flag)
