"""Following a store: an endless, deterministic, resumable sequence of rows for one specialist.

The sequence is a pure function of (unit plan, unit contents, seed, mix), never of arrival: the reader waits for the
next *planned* unit of a domain, and for a damaged one to be recomputed. So a live stream equals a finished store, and
a resumed reader one never stopped. What is read when is unit_reader.py's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np

from workers.layout import FIRST_GENERATION
from workers.randomness import generator
from workers.targets.commits.damage import DamagedShard
from workers.targets.config import Precision
from workers.targets.encoding.arrays import UnitTargets
from workers.targets.encoding.scalars import PROBABILITIES
from workers.targets.encoding.schema import StoreHeader
from workers.targets.shared_units import SharedUnits
from workers.targets.store import TargetStore
from workers.targets.unit_reader import UnitReader, UnitRequest
from workers.units import UnitPlan

_LEAST_AHEAD = 2
"""Units of each domain that are read in the background while one is served, as far as memory allows; by rate, more."""


@dataclass(frozen=True)
class TargetRow:
    """One text with its targets (views into its unit's arrays). Legend: S tokens, T target positions, E entries."""

    prompt_uid: str
    tokens: np.ndarray
    """[S] token ids."""
    start: int
    """The T = S - start target positions are start ... S-1."""
    num_kept: np.ndarray
    """[T] kept entries at each position."""
    ids: np.ndarray
    weights: np.ndarray
    """[E] kept ids, in no order within a position, and what they weigh (float32)."""
    tail: np.ndarray
    """[T] mass beyond the kept ids in a `topk` store, else empty (float32)."""
    logprobs: np.ndarray | None
    """[T, V] in a `full` store, else None."""
    entropy: np.ndarray
    token_logprob: np.ndarray
    hidden: np.ndarray | None = None
    """[T, H] in a `hidden` store, else None (see UnitTargets)."""
    precision: Precision = "float32"
    """The type of hidden states: of two bytes they are bits (see heads.py)."""
    teacher: str = ""
    """Whose hidden states they are."""
    temperature: float = 1.0
    """Of the softmax that all these are of."""
    rejected: bool = False
    """The text is too long for the reader: it has no targets, and is counted."""

    @property
    def targets(self) -> int:
        return len(self.tokens) - self.start


def rows_of(unit: UnitTargets, header: StoreHeader, teacher: str = "") -> list[TargetRow]:
    """The rows of a decoded unit of a teacher's with its first draw; large arrays are not copied."""
    vocabulary, exact, full = header.vocabulary, not header.sampled, header.scheme == "full"
    H = len(unit.hidden) // max(len(unit.entropy), 1)
    entries, ids, weights = _weighted(unit, header)
    tail = PROBABILITIES[unit.tail].astype(np.float32)
    token_at = np.concatenate([[0], np.cumsum(unit.lengths)])
    target_at = np.concatenate([[0], np.cumsum(unit.target_lengths)])
    entry_at = np.concatenate([[0], np.cumsum(entries.astype(np.int64))])
    rows = []
    for r in range(unit.rows):
        t0, t1 = target_at[r], target_at[r + 1]
        e = slice(0, 0) if exact else slice(entry_at[t0], entry_at[t1])
        dense = unit.logprobs[t0 * vocabulary : t1 * vocabulary].reshape(-1, vocabulary) if full else None
        rows.append(
            TargetRow(
                prompt_uid=unit.prompt_uids[r],
                tokens=unit.tokens[token_at[r] : token_at[r + 1]],
                start=int(unit.starts[r]),
                num_kept=entries[t0:t1],
                ids=ids[e],
                weights=weights[e],
                tail=tail[t0:t1],
                logprobs=dense,
                entropy=unit.entropy[t0:t1],
                token_logprob=unit.token_logprob[t0:t1],
                precision=header.precision,
                teacher=teacher,
                hidden=unit.hidden[t0 * H : t1 * H].reshape(-1, H) if H else None,
                temperature=unit.temperature,
            )
        )
    return rows


def _weighted(unit: UnitTargets, header: StoreHeader) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Entries, ids and weights of the first draw, with the always-kept ids after the others of each position."""
    A, entries = len(header.always), unit.num_kept.astype(np.int64)
    always_TA = unit.always.reshape(len(entries), A)
    weights = header.weights(entries, unit.counts, always_TA)
    if not A:
        return unit.num_kept, unit.ids, weights
    place = np.arange(len(unit.ids)) + A * np.repeat(np.arange(len(entries)), entries)
    total = len(unit.ids) + always_TA.size
    exact = np.setdiff1d(np.arange(total), place, assume_unique=True)
    ids, merged = np.empty(total, np.uint32), np.empty(total, np.float32)
    ids[place], ids[exact] = unit.ids, np.tile(np.array(header.always, np.uint32), len(entries))
    merged[place], merged[exact] = weights, PROBABILITIES[always_TA].reshape(-1)
    return unit.num_kept + np.uint16(A), ids, merged


@dataclass
class DomainPosition:
    """Where a domain's sequence stands: epoch, how many of its units are behind, how many rows of the next one."""

    epoch: int = 0
    unit: int = 0
    row: int = 0
    served: int = 0
    """Target tokens given so far."""


@dataclass
class Cursor:
    """Everything a reader needs to go on where another stopped."""

    domains: dict[str, DomainPosition] = field(default_factory=dict)
    generation: str = FIRST_GENERATION
    repaired: dict[int, int] = field(default_factory=dict)
    """Units of which the first revision read was a repair, and which: no older one was seen."""
    rejected: int = 0
    """Texts of the first epoch that were too long for the reader."""
    replayed: dict[str, Cursor] = field(default_factory=dict)
    """Where the streams of older generations stand that are mixed into this one, by their names (replay.py)."""

    @property
    def served(self) -> int:
        """Target tokens given so far, without replayed ones."""
        return sum(position.served for position in self.domains.values())

    def has_read(self, unit: int, units_of: Mapping[str, Sequence[int]], below: int | None = None) -> bool:
        """Whether a row of a unit was served (where `below` is given: one of a revision below that).

        `units_of` are the units of each domain in plan order.
        """
        if below is not None and self.repaired.get(unit, 0) >= below:
            return False
        return any(
            unit in units_of[d] and (p.epoch > 0 or units_of[d].index(unit) < p.unit + (p.row > 0))
            for d, p in self.domains.items()
        )

    def to_dict(self) -> dict[str, Any]:
        return {
            "generation": self.generation,
            "domains": {d: dict(vars(p)) for d, p in self.domains.items()},
            "repaired": {str(unit): revision for unit, revision in self.repaired.items()},
            "rejected": self.rejected,
            **({"replayed": {n: c.to_dict() for n, c in self.replayed.items()}} if self.replayed else {}),
        }

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> Cursor:
        return Cursor(
            {d: DomainPosition(**p) for d, p in data["domains"].items()},
            data["generation"],
            {int(unit): revision for unit, revision in data.get("repaired", {}).items()},
            data.get("rejected", 0),
            {name: Cursor.from_dict(cursor) for name, cursor in data.get("replayed", {}).items()},
        )


Shape = Callable[[int, list[TargetRow]], list[TargetRow]]
"""What a reader makes of the rows of a unit. Pure, as the sequence is."""


def _refuse(damage: DamagedShard) -> None:
    raise damage


class TargetStream:
    """Rows of several domains by deficit round-robin over target tokens; a domain wraps when its planned units end.

    `on_wait(unit, seconds)` is called while the next planned unit is not committed yet. `on_damage(damage)` is called
    when a unit was found damaged and marked so, as `name`'s finding: it raises (as it does if not given), or returns
    where somebody recomputes the unit, for which the stream then waits. `ahead` units of each domain (by rate if not
    given) are read in the background. `shape` changes the rows of each unit. `shared`: where readers of the same units
    on this machine leave them decoded. `cache_share`: its part of the memory for units, where a process has several.
    Close a stream that is not needed any more.
    """

    def __init__(
        self,
        store: TargetStore,
        plan: UnitPlan,
        mix: Mapping[str, float],
        seed: int,
        cursor: Cursor | None = None,
        on_wait: Callable[[int, float], None] = lambda unit, seconds: None,
        on_damage: Callable[[DamagedShard], None] = _refuse,
        *,
        name: str = "a reader",
        ahead: int | None = None,
        shape: Shape = lambda unit, rows: rows,
        shared: SharedUnits | None = None,
        cache_share: float = 1.0,
    ) -> None:
        self._store, self._seed, self._ahead = store, seed, ahead
        self._weights = {d: w for d, w in sorted(mix.items()) if w > 0}
        self._units = {d: plan.of_domain(d) for d in self._weights}
        for domain, units in self._units.items():
            if not units:
                raise ValueError(f"mix: no prompt belongs to the domain {domain!r}; the store has {plan.domains}")
        self.cursor = cursor or Cursor({d: DomainPosition() for d in self._weights}, plan.generation)
        if not self.cursor.generation == plan.generation == store.generation:
            raise ValueError(
                f"targets: {name} began in generation {self.cursor.generation}, the plan is of {plan.generation} and "
                f"the {store.split} store of {store.generation}: their units are others. Train it under another name"
            )
        teachers = {unit.index: unit.teacher for unit in plan.units}

        def rows_of_unit(unit: int, targets: UnitTargets) -> list[TargetRow]:
            return shape(unit, rows_of(targets, store.header, teachers[unit]))

        self._reader: UnitReader[TargetRow] = UnitReader(
            store, rows_of_unit, name, on_wait, on_damage, shared, cache_share
        )

    def close(self) -> None:
        """End the background's threads."""
        self._reader.close()

    def next_batch(self, targets: int) -> list[TargetRow]:
        """The next rows of the sequence, until they hold at least `targets` target positions."""
        return batch_of(self.next_row, targets)

    def next_row(self) -> TargetRow:
        """The next row of the sequence; one without target positions was rejected."""
        positions = self.cursor.domains
        domain = min(self._weights, key=lambda d: (positions[d].served / self._weights[d], d))
        row = self._next_of(domain)
        positions[domain].served += row.targets
        self.cursor.rejected += row.rejected and not positions[domain].epoch
        return row

    def _next_of(self, domain: str) -> TargetRow:
        position, units = self.cursor.domains[domain], self._units[domain]
        while True:
            if position.unit == len(units):
                if position.served == 0:
                    raise ValueError(
                        f"mix: every text of the domain {domain!r} was rejected or has no target: nothing to train on"
                    )
                position.epoch, position.unit, position.row = position.epoch + 1, 0, 0
            unit, draw = self._at(domain, position.epoch, position.unit)
            rows = self._rows(unit, draw, first=position.row == 0)
            if position.row == 0:
                self._reader.look_ahead(self._following(domain))
            if position.row < len(rows):
                order = _order(self._seed, "rows", str(unit), position.epoch, len(rows))
                position.row += 1
                return rows[order[position.row - 1]]
            position.unit, position.row = position.unit + 1, 0

    def _rows(self, unit: int, draw: int, first: bool) -> list[TargetRow]:
        """A unit's rows. The `first` time in an epoch, its revision may be worth a note in the cursor."""
        loaded = self._reader.get((unit, draw))
        if first and loaded.revision and not self.cursor.has_read(unit, self._units):
            self.cursor.repaired[unit] = loaded.revision
        return loaded.rows

    def _at(self, domain: str, epoch: int, place: int) -> UnitRequest:
        """The unit at a place of an epoch, and the draw that this epoch trains on."""
        units, draw = self._units[domain], epoch % self._store.header.redraws
        return units[_order(self._seed, "epoch", domain, epoch, len(units))[place]], draw

    def _following(self, domain: str) -> list[UnitRequest]:
        """The units of a domain that come after the present one."""
        position, count = self.cursor.domains[domain], len(self._units[domain])
        ahead = self._ahead
        if ahead is None:
            ahead = max(_LEAST_AHEAD, -(-self._reader.ahead // len(self._weights)))
        places = [divmod(position.unit + 1 + i, count) for i in range(ahead)]
        return [self._at(domain, position.epoch + wraps, place) for wraps, place in places]


def batch_of(next_row: Callable[[], TargetRow], targets: int) -> list[TargetRow]:
    """Rows until they hold at least `targets` target positions; those without any are left out."""
    rows, held = list[TargetRow](), 0
    while held < targets:
        row = next_row()
        if row.targets:
            rows.append(row)
            held += row.targets
    return rows


@lru_cache(maxsize=256)
def _order(seed: int, purpose: str, key: str, epoch: int, n: int) -> np.ndarray:
    """Plan order in the first epoch, so that a reader can follow the teacher; a permutation in each later one."""
    return np.arange(n) if epoch == 0 else generator(seed, purpose, key, epoch).permutation(n)
