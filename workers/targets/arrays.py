"""A unit's targets as flat numpy arrays.

Legend (see schema.py): R rows (texts), S tokens, T target positions, E kept entries, V vocabulary.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np


def _empty(dtype: type) -> np.ndarray:
    return np.zeros(0, dtype)


@dataclass
class UnitTargets:
    """Texts of one unit with the teacher's distributions, flat."""

    prompt_ids: list[str] = field(default_factory=list)
    samples: np.ndarray = field(default_factory=lambda: _empty(np.uint16))
    texts: list[str] = field(default_factory=list)
    lengths: np.ndarray = field(default_factory=lambda: _empty(np.int64))
    """Tokens of each row [R]."""
    starts: np.ndarray = field(default_factory=lambda: _empty(np.int64))
    """First target position of each row [R]."""
    tokens: np.ndarray = field(default_factory=lambda: _empty(np.uint32))
    ends: np.ndarray = field(default_factory=lambda: _empty(np.uint32))
    entropy: np.ndarray = field(default_factory=lambda: _empty(np.float32))
    """Of each distribution, in nats [T]. In a sampled store on the grid of scalars.py."""
    realised: np.ndarray = field(default_factory=lambda: _empty(np.float32))
    """Log-probability of the token that stands there [T]; likewise."""
    entries: np.ndarray = field(default_factory=lambda: _empty(np.uint16))
    """Kept entries of each target position [T]; unused in a `full` store."""
    ids: np.ndarray = field(default_factory=lambda: _empty(np.uint32))
    counts: np.ndarray = field(default_factory=lambda: _empty(np.uint16))
    logprobs: np.ndarray = field(default_factory=lambda: _empty(np.float32))
    """[T * V], only in a `full` store."""
    marginal: np.ndarray = field(default_factory=lambda: _empty(np.float32))
    """Sum of the T distributions [V] where it was asked for; not part of the content and not stored."""

    @property
    def rows(self) -> int:
        return len(self.lengths)

    @property
    def target_lengths(self) -> np.ndarray:
        return self.lengths - self.starts

    def content_hash(self) -> str:
        """sha256 over the logical content, whatever the Parquet encoding and the order of entries in a position."""
        digest, ids, counts = hashlib.sha256(), self.ids, self.counts
        if len(ids):
            order = np.lexsort((ids, np.repeat(np.arange(len(self.entries)), self.entries)))
            ids, counts = ids[order], counts[order]
        for texts in (self.prompt_ids, self.texts):
            sizes = [len(t.encode()) for t in texts]
            digest.update(f"{sizes}".encode() + "".join(texts).encode())
        for array in (
            self.samples,
            self.lengths,
            self.starts,
            self.tokens,
            self.ends,
            self.entropy,
            self.realised,
            self.entries,
            ids,
            counts,
            self.logprobs,
        ):
            digest.update(f"{array.dtype}{array.shape}".encode() + np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()

    def select(self, rows: np.ndarray) -> UnitTargets:
        """The given rows, in the given order."""
        T, E = self.target_lengths, segment_sums(self.entries, self.target_lengths) if len(self.entries) else None
        width = len(self.logprobs) // max(int(T.sum()), 1)
        tokens, targets = _spans(self.lengths, rows), _spans(T, rows)
        entries = _spans(E, rows) if E is not None else np.zeros(0, np.int64)
        return UnitTargets(
            prompt_ids=[self.prompt_ids[r] for r in rows],
            samples=self.samples[rows],
            texts=[self.texts[r] for r in rows],
            lengths=self.lengths[rows],
            starts=self.starts[rows],
            tokens=self.tokens[tokens],
            ends=self.ends[tokens],
            entropy=self.entropy[targets],
            realised=self.realised[targets],
            entries=self.entries[targets] if E is not None else self.entries,
            ids=self.ids[entries],
            counts=self.counts[entries],
            logprobs=self.logprobs.reshape(-1, width)[targets].reshape(-1) if width else self.logprobs,
        )

    @staticmethod
    def join(parts: list[UnitTargets]) -> UnitTargets:
        """The rows of all parts, one after another."""
        lists: dict[str, Any] = {n: [x for p in parts for x in getattr(p, n)] for n in ("prompt_ids", "texts")}
        names = [n for n in UnitTargets.__dataclass_fields__ if n not in lists and n != "marginal"]
        arrays: dict[str, Any] = {n: np.concatenate([getattr(p, n) for p in parts]) for n in names}
        marginals = [p.marginal for p in parts if len(p.marginal)]
        return UnitTargets(**lists, **arrays, marginal=np.sum(marginals, 0) if marginals else _empty(np.float32))


def segment_sums(values: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Sums of consecutive segments of the given lengths."""
    cumulative = np.concatenate([[0], np.cumsum(values.astype(np.int64))])
    bounds = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return cumulative[bounds[1:]] - cumulative[bounds[:-1]]


def _spans(lengths: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Indices into a flat array of the segments `rows`, one after another."""
    firsts = np.cumsum(lengths) - lengths
    chosen = lengths[rows]
    return np.repeat(firsts[rows] - (np.cumsum(chosen) - chosen), chosen) + np.arange(int(chosen.sum()))
