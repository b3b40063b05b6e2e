"""The transformers engine: generates and captures in one pass, or scores given text, on one rank of a gang.

In `all_to_all` every rank has texts of its own, and all ranks must take the same number of forward passes: batch
counts are agreed on first, and in the decode loop a rank without work feeds dummies until no rank is live.
In `all_reduce` all ranks run the same texts; rank 0 samples, captures and broadcasts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from workers.model_files import model_folder
from workers.targets.arrays import UnitTargets
from workers.teacher.capture import CaptureBuffer
from workers.teacher.config import TeacherConfig
from workers.teacher.detokenize import texts_and_ends
from workers.teacher.engine import CaptureSpec, TextRequest
from workers.teacher.generation import Generation, pad
from workers.teacher.loading import load_teacher

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
        return 1 if self.spec.positions == "all" else len(self.requests[row].prompt_ids)


class TransformersEngine:
    """One rank's part of a transformers model. The gang's process group exists before it is made."""

    def __init__(self, config: TeacherConfig, *, rank: int = 0, ranks: int = 1, device: str = "cpu") -> None:
        from transformers import AutoTokenizer

        self.config, self.rank, self.ranks, self.device = config, rank, ranks, device
        self.steps = 0
        self.model = load_teacher(config, ranks=ranks, device=device)
        folder = model_folder(config.model, config.revision)
        self.tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=config.trust_remote_code)
        self.stop_ids = stop_ids(self.tokenizer, self.model.config)
        self._own_texts = ranks > 1 and config.dispatch == "all_to_all"
        self._shared_texts = ranks > 1 and not self._own_texts
        self._captures = rank == 0 or self._own_texts

    def describe(self) -> dict[str, Any]:
        """Facts for the record: weights that this rank holds, their type, where they are, what ends an answer."""
        held = sum((p.to_local() if hasattr(p, "to_local") else p).numel() for p in self.model.parameters())
        return {
            "weights_held": held,
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "device": self.device,
            "stop_ids": sorted(self.stop_ids),
        }

    @torch.no_grad()
    def run(self, requests: list[TextRequest], spec: CaptureSpec, *, budget: float = 1.0) -> UnitTargets:
        """Make or score texts (TeacherEngine.run). Rows come back in the order of the requests."""
        texts = _Texts(requests, spec, CaptureBuffer(requests, spec), [[] for _ in requests])
        given = [i for i, r in enumerate(requests) if r.answer_ids is not None]
        asked = [i for i, r in enumerate(requests) if r.answer_ids is None]
        for batch in self._agreed(_by_tokens(given, requests, self.config.score_tokens)):
            self._score(batch, texts)
        for batch in self._agreed(_by_count(asked, requests, self.config.batch)):
            self._generate(batch, texts)
        targets = texts.buffer.finish(texts.ids, [texts.start(i) for i in range(len(requests))])
        targets.texts, targets.ends = texts_and_ends(self.tokenizer, texts.ids)
        return targets

    def _score(self, batch: list[int], texts: _Texts) -> None:
        """One forward pass over given texts."""
        items = [texts.requests[i] for i in batch] or _DUMMY
        sequences = [r.prompt_ids + (r.answer_ids or []) for r in items]
        ids_BS, mask_BS = pad(sequences, left=False)
        logits_BSV = self.model(
            input_ids=ids_BS.to(self.device), attention_mask=mask_BS.to(self.device), use_cache=False
        ).logits
        for b, i in enumerate(batch):
            texts.ids[i] = sequences[b]
            if self._captures:
                _capture_span(texts.buffer, i, sequences[b], texts.start(i), logits_BSV[b])

    def _generate(self, batch: list[int], texts: _Texts) -> None:
        """Answer a batch of prompts, token by token, capturing as it goes."""
        rows = np.array(batch, dtype=np.int64)
        items = [texts.requests[i] for i in batch] or _DUMMY
        work = Generation(self.model, self.device, items, texts.spec, self.stop_ids)
        logits_BSV = work.prefill(all_positions=texts.spec.positions == "all")
        if texts.spec.positions == "all" and self._captures:
            for b, i in enumerate(batch):
                prompt = items[b].prompt_ids
                _capture_span(texts.buffer, i, prompt, 1, logits_BSV[b, logits_BSV.shape[1] - len(prompt) :])
        logits_BV = logits_BSV[:, -1]
        while self._any_rank_live(work):
            tokens_B = torch.zeros(len(logits_BV), dtype=torch.long, device=logits_BV.device)
            if self._captures and work.live.any():
                tokens_B = work.choose(logits_BV, texts.buffer, rows)
            if self._shared_texts:
                dist.broadcast(tokens_B, 0)
            work.append(tokens_B)
            if not self._any_rank_live(work):
                break
            logits_BV = work.step(tokens_B)
        for b, i in enumerate(batch):
            texts.ids[i] = work.texts[b]

    def _agreed(self, batches: list[list[int]]) -> list[list[int]]:
        """The batches, with empty ones at the end so that all ranks run equally many."""
        if not self._own_texts:
            return batches
        count = torch.tensor(len(batches), device=self.device)
        dist.all_reduce(count, dist.ReduceOp.MAX)
        return batches + [[] for _ in range(int(count) - len(batches))]

    def _any_rank_live(self, work: Generation) -> bool:
        if not self._own_texts:
            return bool(work.live.any())
        flag = torch.tensor(int(work.live.any()), device=self.device)
        dist.all_reduce(flag, dist.ReduceOp.MAX)
        return bool(flag)


def stop_ids(tokenizer: Any, model_config: Any) -> set[int]:
    """Ids that end an answer: the tokenizer's end of text and those of the model's configuration."""
    configured = getattr(model_config, "eos_token_id", None)
    ids = configured if isinstance(configured, list) else [configured]
    return {i for i in [tokenizer.eos_token_id, *ids] if i is not None}


def _capture_span(buffer: CaptureBuffer, row: int, sequence: list[int], start: int, logits_SV: torch.Tensor) -> None:
    """Capture positions start ... end of a sequence from the logits at its tokens."""
    positions = np.arange(start, len(sequence))
    tokens = torch.tensor(sequence, device=logits_SV.device)[start:]
    buffer.add(np.full(len(positions), row), positions, logits_SV[start - 1 : len(sequence) - 1], tokens)


def _by_count(chosen: list[int], requests: list[TextRequest], most: int) -> list[list[int]]:
    """Batches of prompts of similar length."""
    ordered = sorted(chosen, key=lambda i: (len(requests[i].prompt_ids), i))
    return [ordered[i : i + most] for i in range(0, len(ordered), most)]


def _by_tokens(chosen: list[int], requests: list[TextRequest], most: int) -> list[list[int]]:
    """Batches of texts of similar length, at most `most` tokens each with padding (or one text)."""
    batches: list[list[int]] = []
    for i in sorted(chosen, key=lambda i: (-_length(requests[i]), i)):
        longest = _length(requests[batches[-1][0]]) if batches else 0
        if not batches or longest * (len(batches[-1]) + 1) > most:
            batches.append([])
        batches[-1].append(i)
    return batches


def _length(request: TextRequest) -> int:
    return len(request.prompt_ids) + len(request.answer_ids or ())
