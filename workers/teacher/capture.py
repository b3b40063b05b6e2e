"""Collecting targets from logits, in whatever order positions come, a chunk of positions at a time.

Legend: n positions of one call, V tokenizer ids, T positions of all texts, E kept entries.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from workers.randomness import position_uniforms
from workers.targets.arrays import UnitTargets
from workers.targets.scalars import round_unbiased
from workers.teacher.engine import CaptureSpec, TextRequest
from workers.teacher.masses import Masses
from workers.teacher.sampling import SparseTargets, multinomial, systematic, threshold

_CHUNK = 64
"""Positions whose distributions are dense at once: few enough that a chunk of 49k ids stays near the processor."""

_DTYPES = {"entropy": "float32", "realised": "float32", "entries": "uint16", "ids": "uint32", "counts": "uint16"}


class CaptureBuffer:
    """Targets of some texts, collected position by position and put in order at the end."""

    def __init__(self, requests: list[TextRequest], spec: CaptureSpec) -> None:
        self._requests, self._spec = requests, spec
        self._uniforms = [
            position_uniforms(spec.seed, "draw", r.prompt_id, r.sample, _longest(r), spec.uniforms) for r in requests
        ]
        self._rows: list[np.ndarray] = []
        self._positions: list[np.ndarray] = []
        self._arrays: dict[str, list[np.ndarray]] = {n: [] for n in (*_DTYPES, "logprobs")}
        self._marginal_V: torch.Tensor | None = None

    def masses(self, logits_nV: torch.Tensor) -> Masses:
        """The distributions over the tokenizer's ids, from raw logits."""
        return Masses(logits_nV[:, : self._spec.vocabulary])

    def add(self, rows: np.ndarray, positions: np.ndarray, logits_nV: torch.Tensor, tokens_n: torch.Tensor) -> None:
        """Capture the distributions of the tokens that stand at `positions` of texts `rows`."""
        for i in range(0, len(rows), _CHUNK):
            s = slice(i, i + _CHUNK)
            self.add_masses(rows[s], positions[s], self.masses(logits_nV[s]), tokens_n[s])

    def add_masses(self, rows: np.ndarray, positions: np.ndarray, masses: Masses, tokens_n: torch.Tensor) -> None:
        """The same for distributions that are made already; spends them."""
        uniforms_nU = np.stack([self._uniforms[r][p] for r, p in zip(rows, positions, strict=True)])
        new = {"entropy": masses.entropy().cpu().numpy(), "realised": masses.log_probability(tokens_n).cpu().numpy()}
        if self._spec.marginal:
            marginal_V = masses.marginal()
            self._marginal_V = marginal_V if self._marginal_V is None else self._marginal_V + marginal_V
        if self._spec.scheme == "full":
            new["logprobs"] = masses.log_probabilities().cpu().numpy().astype(self._spec.precision).reshape(-1)
        else:
            for column, name in enumerate(("entropy", "realised")):
                new[name] = round_unbiased(new[name], name, uniforms_nU[:, column])
            kept = self._draw(masses, torch.from_numpy(uniforms_nU[:, 2:]).to(masses.total_B.device))
            new |= {"entries": kept.entries_B, "ids": kept.ids_E, "counts": kept.counts_E}
        self._rows.append(np.asarray(rows))
        self._positions.append(np.asarray(positions))
        for name, values in new.items():
            array = values.cpu().numpy() if isinstance(values, torch.Tensor) else values
            self._arrays[name].append(array.astype(_DTYPES.get(name, array.dtype), copy=False))

    def _draw(self, masses: Masses, uniforms_nU: torch.Tensor) -> SparseTargets:
        draws = self._spec.draws
        if self._spec.scheme == "multinomial":
            return multinomial(masses, uniforms_nU)
        if self._spec.scheme == "threshold":
            return threshold(masses, draws, uniforms_nU[:, 0], uniforms_nU[:, 1])
        return systematic(masses, draws, uniforms_nU[:, 0])

    def finish(self, sequences: list[list[int]], starts: list[int]) -> UnitTargets:
        """All targets in order of text and position; `sequences` are the complete texts. Their strings are not set."""
        empty = _DTYPES | {"logprobs": self._spec.precision if self._spec.scheme == "full" else "float32"}
        a: dict[str, Any] = {n: np.concatenate(v) if v else np.zeros(0, empty[n]) for n, v in self._arrays.items()}
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
        marginal = self._marginal_V.cpu().numpy() if self._marginal_V is not None else np.zeros(0, np.float32)
        return UnitTargets(
            prompt_ids=[r.prompt_id for r in self._requests],
            samples=np.array([r.sample for r in self._requests], np.uint16),
            lengths=np.array([len(s) for s in sequences], np.int64),
            starts=np.array(starts, np.int64),
            tokens=np.fromiter((t for s in sequences for t in s), np.uint32),
            marginal=marginal,
            **a,
        )


def _longest(request: TextRequest) -> int:
    answer = len(request.answer_ids) if request.answer_ids is not None else request.max_new_tokens
    return len(request.prompt_ids) + answer
