"""Collecting targets from logits, in whatever order positions come, a chunk of positions at a time.

Legend: n positions of one call, V tokenizer ids, T positions of all texts.
"""

from __future__ import annotations

from collections import deque

import numpy as np
import torch

from workers.randomness import position_uniforms
from workers.targets.encoding.arrays import Draw, UnitTargets
from workers.targets.encoding.segments import spans
from workers.teacher.engine import CaptureSpec, TextRequest
from workers.teacher.sampling.blocked_probs import BlockedProbs
from workers.teacher.sampling.chunks import chunk_rows
from workers.teacher.sampling.drawing import Kept, as_kept, keep
from workers.transfers import HostCopy

_UNDER_WAY = 1
"""Chunks whose copies to the host are not looked at yet: while the host rounds and counts one, the device makes the
next."""


class CaptureBuffer:
    """Targets of some texts, collected position by position and put in order at the end."""

    def __init__(self, requests: list[TextRequest], spec: CaptureSpec) -> None:
        self._requests, self._spec = requests, spec
        self._uniforms = [
            position_uniforms(spec.seed, "draw", r.prompt_uid, r.sample, _longest(r), spec.uniforms) for r in requests
        ]
        self._rows: list[np.ndarray] = [np.zeros(0, np.int64)]
        self._positions: list[np.ndarray] = [np.zeros(0, np.int64)]
        self._kept: list[Kept] = []
        self._under_way: deque[tuple[np.ndarray, np.ndarray, np.ndarray, HostCopy]] = deque()
        self._chunk: int | None = None
        self._marginal_V: torch.Tensor | None = None
        self._masses: BlockedProbs | None = None

    def add(
        self,
        rows: np.ndarray,
        positions: np.ndarray,
        logits_nV: torch.Tensor,
        tokens_n: torch.Tensor,
        hidden_nH: torch.Tensor | None = None,
    ) -> None:
        """Capture the distributions of the tokens that stand at `positions` of texts `rows`; `hidden_nH` is what the
        logits were made of, where the engine shows it."""
        chunk = self.rows_at_once(logits_nV.device)
        for i in range(0, len(rows), chunk):
            s = slice(i, i + chunk)
            hidden = hidden_nH[s] if hidden_nH is not None else None
            self.add_probs(rows[s], positions[s], self.probs(logits_nV[s]), tokens_n[s], hidden)

    def rows_at_once(self, device: torch.device) -> int:
        """Distributions that are to be captured at once: of one size, as it is asked for at every step."""
        self._chunk = self._chunk or chunk_rows(self._spec.vocabulary, device)
        return self._chunk

    def probs(self, logits_nV: torch.Tensor) -> BlockedProbs:
        """The distributions over the tokenizer's ids at the capture temperature, from raw logits. Overwrites the last
        ones that were made here."""
        self._masses = BlockedProbs(logits_nV[:, : self._spec.vocabulary], self._spec.temperature, self._masses)
        return self._masses

    def add_probs(
        self,
        rows: np.ndarray,
        positions: np.ndarray,
        probs: BlockedProbs,
        tokens_n: torch.Tensor,
        hidden_nH: torch.Tensor | None = None,
    ) -> None:
        """The same as `add` for distributions that are made already; modifies them in place."""
        if self._spec.marginal:
            marginal_V = probs.marginal()
            self._marginal_V = marginal_V if self._marginal_V is None else self._marginal_V + marginal_V
        uniforms_nU = self.uniforms(rows, positions)
        seen = HostCopy(keep(probs, tokens_n, self._spec, uniforms_nU, hidden_nH))
        self._under_way.append((rows, positions, uniforms_nU, seen))
        self._take_in(_UNDER_WAY)

    def uniforms(self, rows: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """The random numbers of positions [n, U]."""
        return np.stack([self._uniforms[r][p] for r, p in zip(rows, positions, strict=True)])

    def add_kept(self, rows: np.ndarray, positions: np.ndarray, kept: Kept) -> None:
        """The same for what is ready to be stored. Of a position that comes twice, the last counts."""
        self._take_in(0)
        self._append(rows, positions, kept)

    def _take_in(self, left: int) -> None:
        """Take in what is on its way from the device, the oldest first, but for so many chunks."""
        while len(self._under_way) > left:
            rows, positions, uniforms_nU, seen = self._under_way.popleft()
            self._append(rows, positions, as_kept(seen.tensors(), self._spec, uniforms_nU))

    def _append(self, rows: np.ndarray, positions: np.ndarray, kept: Kept) -> None:
        self._kept.append(kept)
        self._rows.append(np.asarray(rows))
        self._positions.append(np.asarray(positions))

    def add_marginal(self, expected_V: np.ndarray) -> None:
        """Add to the sum of the distributions (`CaptureSpec.marginal`) what was not made of probs."""
        expected = torch.from_numpy(expected_V)
        self._marginal_V = expected if self._marginal_V is None else self._marginal_V + expected

    def settle(self) -> None:
        """Have everything on the host, and free the memory that probs are made in."""
        self._take_in(0)
        self._masses = None
        self._marginal_V = self._marginal_V.cpu() if self._marginal_V is not None else None

    def finish(self, sequences: list[list[int]], starts: list[int]) -> UnitTargets:
        """All targets in order of text and position; `sequences` are the complete texts. Their strings are not set."""
        self.settle()
        rows, positions = np.concatenate(self._rows), np.concatenate(self._positions)
        order = _last_of_each(rows, positions)
        order = order[positions[order] < np.array([len(s) for s in sequences], np.int64)[rows[order]]]
        unit = UnitTargets(
            prompt_uids=[r.prompt_uid for r in self._requests],
            samples=np.array([r.sample for r in self._requests], np.uint16),
            lengths=np.array([len(s) for s in sequences], np.int64),
            starts=np.array(starts, np.int64),
            tokens=np.fromiter((t for s in sequences for t in s), np.uint32),
            logprobs=np.zeros(0, "float32" if self._spec.scheme == "hidden" else self._spec.precision),
            temperature=self._spec.temperature,
        )
        if self._marginal_V is not None:
            unit.marginal = self._marginal_V.numpy()
        if not self._kept:
            unit.redraws = unit.draws * (self._spec.redraws - 1)
            return unit
        for name in ("entropy", "token_logprob", "tail", "always", "logprobs", "hidden"):
            setattr(unit, name, _by_position([getattr(k, name) for k in self._kept], len(rows), order))
        draws = [_in_order(list(same), order) for same in zip(*(k.draws for k in self._kept), strict=True)]
        if draws:
            unit.num_kept, unit.ids, unit.counts = vars(draws[0]).values()
            unit.redraws = draws[1:]
        return unit


def _last_of_each(rows: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Places in order of text and position; of those that are the same position, the last."""
    order = np.lexsort((positions, rows))
    same = (np.diff(rows[order]) == 0) & (np.diff(positions[order]) == 0)
    return order[np.append(~same, True)] if len(order) else order


def _by_position(parts: list[np.ndarray], positions: int, order: np.ndarray) -> np.ndarray:
    """Values of which every position has equally many, in order of positions."""
    values = np.concatenate(parts)
    return values.reshape(positions, -1)[order].reshape(-1) if len(values) else values


def _in_order(parts: list[Draw], order: np.ndarray) -> Draw:
    draw = Draw.join(parts)
    kept = spans(draw.num_kept.astype(np.int64), order)
    return Draw(draw.num_kept[order], draw.ids[kept], draw.counts[kept])


def _longest(request: TextRequest) -> int:
    answer = len(request.answer_token_ids) if request.answer_token_ids is not None else request.max_new_tokens
    return len(request.prompt_token_ids) + answer
