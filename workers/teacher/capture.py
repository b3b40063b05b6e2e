"""Collecting targets from logits, in whatever order positions come, a chunk of positions at a time.

Legend: n positions of one call, V tokenizer ids, T positions of all texts, E kept entries.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from workers.randomness import position_uniforms
from workers.targets.arrays import UnitTargets
from workers.teacher.engine import CaptureSpec, TextRequest
from workers.teacher.sampling import entropy, systematic

_CHUNK = 128
"""Positions whose distributions are dense at once (float64 sums of 49k ids: 50 MB)."""


class CaptureBuffer:
    """Targets of some texts, collected position by position and put in order at the end."""

    def __init__(self, requests: list[TextRequest], spec: CaptureSpec) -> None:
        self._requests, self._spec = requests, spec
        self._offsets = [position_uniforms(spec.seed, "draw", r.prompt_id, r.sample, _longest(r)) for r in requests]
        self._rows: list[np.ndarray] = []
        self._positions: list[np.ndarray] = []
        self._arrays: dict[str, list[np.ndarray]] = {
            n: [] for n in ("entropy", "realised", "entries", "ids", "counts", "logprobs")
        }

    def add(self, rows: np.ndarray, positions: np.ndarray, logits_nV: torch.Tensor, tokens_n: torch.Tensor) -> None:
        """Capture the distributions of the tokens that stand at `positions` of texts `rows`."""
        for i in range(0, len(rows), _CHUNK):
            s = slice(i, i + _CHUNK)
            self._add_chunk(rows[s], positions[s], self.log_probabilities(logits_nV[s]), tokens_n[s])

    def log_probabilities(self, logits_nV: torch.Tensor) -> torch.Tensor:
        """Log-probabilities at temperature 1 over the tokenizer's ids, in float32."""
        return logits_nV[:, : self._spec.vocabulary].float().log_softmax(-1)

    def _add_chunk(
        self, rows: np.ndarray, positions: np.ndarray, logp_nV: torch.Tensor, tokens_n: torch.Tensor
    ) -> None:
        new = {
            "entropy": entropy(logp_nV).cpu().numpy().astype(np.float16),
            "realised": logp_nV.gather(1, tokens_n[:, None])[:, 0].cpu().numpy().astype(np.float16),
        }
        if self._spec.scheme == "full":
            new["logprobs"] = logp_nV.cpu().numpy().astype(self._spec.precision).reshape(-1)
        else:
            offsets = torch.tensor(
                [self._offsets[r][p] for r, p in zip(rows, positions, strict=True)], dtype=torch.float64
            )
            kept = systematic(logp_nV.exp(), self._spec.draws, offsets.to(logp_nV.device))
            new["entries"] = kept.entries_B.cpu().numpy().astype(np.uint16)
            new["ids"] = kept.ids_E.cpu().numpy().astype(np.uint32)
            new["counts"] = kept.counts_E.cpu().numpy().astype(np.uint16)
        self._rows.append(np.asarray(rows))
        self._positions.append(np.asarray(positions))
        for name, values in new.items():
            self._arrays[name].append(values)

    def finish(self, sequences: list[list[int]], starts: list[int]) -> UnitTargets:
        """All targets in order of text and position; `sequences` are the complete texts. Their strings are not set."""
        a: dict[str, Any] = {
            n: np.concatenate(v) if v else np.zeros(0, _DTYPES.get(n, self._spec.precision))
            for n, v in self._arrays.items()
        }
        rows = np.concatenate(self._rows) if self._rows else np.zeros(0, np.int64)
        positions = np.concatenate(self._positions) if self._positions else np.zeros(0, np.int64)
        order = np.lexsort((positions, rows))
        if self._spec.scheme == "full":
            a["logprobs"] = a["logprobs"].reshape(-1, self._spec.vocabulary)[order].reshape(-1)
        else:
            entries = a["entries"].astype(np.int64)
            firsts = np.cumsum(entries) - entries
            moved = entries[order]
            gather = np.repeat(firsts[order] - (np.cumsum(moved) - moved), moved) + np.arange(moved.sum())
            a["ids"], a["counts"], a["entries"] = a["ids"][gather], a["counts"][gather], a["entries"][order]
        a["entropy"], a["realised"] = a["entropy"][order], a["realised"][order]
        return UnitTargets(
            prompt_ids=[r.prompt_id for r in self._requests],
            samples=np.array([r.sample for r in self._requests], np.uint16),
            lengths=np.array([len(s) for s in sequences], np.int64),
            starts=np.array(starts, np.int64),
            tokens=np.fromiter((t for s in sequences for t in s), np.uint32),
            **a,
        )


_DTYPES = {"entropy": "float16", "realised": "float16", "entries": "uint16", "ids": "uint32", "counts": "uint16"}


def _longest(request: TextRequest) -> int:
    answer = len(request.answer_ids) if request.answer_ids is not None else request.max_new_tokens
    return len(request.prompt_ids) + answer
