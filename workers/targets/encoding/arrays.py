"""A unit's targets as flat numpy arrays.

Legend (see schema.py): R rows (texts), S tokens, T target positions, E kept entries, A always-kept ids, V vocabulary.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, fields, replace

import numpy as np

from workers.targets.encoding.segments import segment_sums, spans


def _empty(dtype: type) -> np.ndarray:
    return np.zeros(0, dtype)


@dataclass(frozen=True)
class Draw:
    """Entries kept at every target position by one draw of the scheme."""

    num_kept: np.ndarray
    """How many at each position [T] (uint16)."""
    ids: np.ndarray
    """[E] (uint32), in no order within a position."""
    counts: np.ndarray
    """What they weigh [E] (uint16): a count of the header's unit of mass, or for `topk` a code of scalars.py."""

    def select(self, target_lengths: np.ndarray, rows: np.ndarray) -> Draw:
        """The entries of the given rows."""
        kept = spans(segment_sums(self.num_kept, target_lengths), rows)
        return Draw(self.num_kept[spans(target_lengths, rows)], self.ids[kept], self.counts[kept])

    def by_id(self) -> Draw:
        """The same with ids ascending in each position."""
        order = np.lexsort((self.ids, np.repeat(np.arange(len(self.num_kept)), self.num_kept)))
        return replace(self, ids=self.ids[order], counts=self.counts[order])

    @staticmethod
    def join(parts: list[Draw]) -> Draw:
        return Draw(*(np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(Draw)))


@dataclass
class UnitTargets:
    """Texts of one unit with the teacher's distributions, flat."""

    prompt_uids: list[str] = field(default_factory=list)
    samples: np.ndarray = field(default_factory=lambda: _empty(np.uint16))
    texts: list[str] = field(default_factory=list)
    """Of each row [R]; none, as `ends`, where they are to be made yet (workers/teacher/generation/detokenize.py)."""
    lengths: np.ndarray = field(default_factory=lambda: _empty(np.int64))
    """Tokens of each row [R]."""
    starts: np.ndarray = field(default_factory=lambda: _empty(np.int64))
    """First target position of each row [R]."""
    tokens: np.ndarray = field(default_factory=lambda: _empty(np.uint32))
    ends: np.ndarray = field(default_factory=lambda: _empty(np.uint32))
    entropy: np.ndarray = field(default_factory=lambda: _empty(np.float32))
    """Of each distribution, in nats [T]. In a store of kept ids on the grid of scalars.py."""
    token_logprob: np.ndarray = field(default_factory=lambda: _empty(np.float32))
    """Log-probability of the token that stands there [T]; likewise."""
    num_kept: np.ndarray = field(default_factory=lambda: _empty(np.uint16))
    """The first draw [T]; unused in a `full` store."""
    ids: np.ndarray = field(default_factory=lambda: _empty(np.uint32))
    counts: np.ndarray = field(default_factory=lambda: _empty(np.uint16))
    tail: np.ndarray = field(default_factory=lambda: _empty(np.uint16))
    """Code of the mass beyond the kept ids [T], only in a `topk` store."""
    always: np.ndarray = field(default_factory=lambda: _empty(np.uint16))
    """Codes of the exact probabilities of the store's always-kept ids [T * A]."""
    redraws: list[Draw] = field(default_factory=list)
    """Further independent draws, for later epochs."""
    logprobs: np.ndarray = field(default_factory=lambda: _empty(np.float32))
    """[T * V], only in a `full` store."""
    hidden: np.ndarray = field(default_factory=lambda: _empty(np.float32))
    """What the teacher's head was given [T * H], only in a `hidden` store: float32, or the bits of two-byte numbers."""
    temperature: float = 1.0
    """At which all these distributions were taken."""
    marginal: np.ndarray = field(default_factory=lambda: _empty(np.float32))
    """Sum of the distributions of all texts [V] where it was asked for; not part of the content and not stored."""

    @property
    def rows(self) -> int:
        return len(self.lengths)

    @property
    def target_lengths(self) -> np.ndarray:
        return self.lengths - self.starts

    @property
    def draws(self) -> list[Draw]:
        """All draws, the first one included."""
        return [Draw(self.num_kept, self.ids, self.counts), *self.redraws]

    def with_draw(self, number: int) -> UnitTargets:
        """The same texts with the entries of one draw, counted from 0, and no others."""
        draw = self.draws[number]
        return replace(self, num_kept=draw.num_kept, ids=draw.ids, counts=draw.counts, redraws=[])

    def content_hash(self) -> str:
        """sha256 over the logical content, whatever the Parquet encoding and the order of entries in a position."""
        digest = hashlib.sha256(f"{self.temperature}".encode())
        for texts in (self.prompt_uids, self.texts):
            sizes = [len(t.encode()) for t in texts]
            digest.update(f"{sizes}".encode() + "".join(texts).encode())
        arrays = [self.samples, self.lengths, self.starts, self.tokens, self.ends, self.entropy, self.token_logprob]
        arrays += [getattr(draw.by_id(), f.name) for draw in self.draws for f in fields(Draw)]
        hidden = [self.hidden] if len(self.hidden) else []  # hashes are older than they
        for array in (*arrays, self.tail, self.always, self.logprobs, *hidden):
            digest.update(f"{array.dtype}{array.shape}".encode() + np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()

    def select(self, rows: np.ndarray) -> UnitTargets:
        """The given rows, in the given order."""
        tokens, targets = spans(self.lengths, rows), spans(self.target_lengths, rows)
        first, *redraws = (d.select(self.target_lengths, rows) if len(d.num_kept) else d for d in self.draws)
        return UnitTargets(
            prompt_uids=[self.prompt_uids[r] for r in rows],
            samples=self.samples[rows],
            texts=[self.texts[r] for r in rows] if self.texts else [],
            lengths=self.lengths[rows],
            starts=self.starts[rows],
            tokens=self.tokens[tokens],
            ends=self.ends[tokens] if len(self.ends) else self.ends,
            entropy=self.entropy[targets],
            token_logprob=self.token_logprob[targets],
            num_kept=first.num_kept,
            ids=first.ids,
            counts=first.counts,
            tail=self.tail[targets] if len(self.tail) else self.tail,
            always=self._by_position(self.always, targets),
            redraws=redraws,
            logprobs=self._by_position(self.logprobs, targets),
            hidden=self._by_position(self.hidden, targets),
            temperature=self.temperature,
            marginal=self.marginal,
        )

    def _by_position(self, values: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """Those of the given target positions, of an array with equally many values for each."""
        return values.reshape(len(self.entropy), -1)[targets].reshape(-1) if len(values) else values

    @staticmethod
    def join(parts: list[UnitTargets]) -> UnitTargets:
        """The rows of all parts, one after another; they share their temperature."""
        first, *redraws = (Draw.join(list(same)) for same in zip(*(p.draws for p in parts), strict=True))
        marginals = [p.marginal for p in parts if len(p.marginal)]
        drawn = {"num_kept", "ids", "counts", "redraws"}
        arrays = [f.name for f in fields(UnitTargets) if isinstance(getattr(parts[0], f.name), np.ndarray)]
        return UnitTargets(
            prompt_uids=[x for p in parts for x in p.prompt_uids],
            texts=[x for p in parts for x in p.texts],
            redraws=redraws,
            temperature=parts[0].temperature,
            marginal=np.sum(marginals, 0) if marginals else _empty(np.float32),
            **vars(first),
            **{n: np.concatenate([getattr(p, n) for p in parts]) for n in arrays if n not in drawn | {"marginal"}},
        )
