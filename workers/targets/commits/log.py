"""The log of a target store: one entry per unit, made by create-if-absent. The only truth about what exists.

Parts are invisible until an entry names them. Commit order means nothing; plan order is the order.

    log/g0000/00000042.json              unit 42 as it was first captured: revision 0
    log/g0000/repairs/00000042.r1.json   unit 42 recomputed, because revision 0 was damaged
    log/g0000/digests/...                copies of many entries, to spare a request for each (digests.py)

Repairs lie in a folder of their own, so that a reader sees those of a log of 100,000 units with one small listing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from cluster.storage import Storage
from workers.layout import FIRST_GENERATION, LogLayout
from workers.targets.commits.damage import Damage, DamagedStore, DamageMarks
from workers.targets.commits.digests import LEAST, Digests, Listed
from workers.targets.encoding.arrays import UnitTargets


@dataclass(frozen=True)
class Part:
    """One Parquet file of a unit. `role` is `targets`, or `draw1` ... for further draws."""

    role: str
    key: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Entry:
    """What a unit's commit says. A unit whose prompts were all rejected is committed without parts."""

    unit: int
    parts: tuple[Part, ...]
    rows: int
    tokens: int
    """Tokens of all texts."""
    targets: int
    """Target positions."""
    num_kept: int
    """Kept entries over all target positions."""
    content_hash: str
    teacher: str
    teacher_fingerprint: str
    epoch: int
    """The driver's lease epoch: which attempt at the run wrote it."""
    started: float
    finished: float
    """Seconds since 1970: when the teacher began and ended this unit."""
    generated: int = 0
    """Tokens that the teacher sampled (the others were given)."""
    rejected: tuple[dict[str, Any], ...] = field(default_factory=tuple)
    """Prompts of the unit that have no row here: {id, reason}."""
    batch_scale: float = 1.0
    """Share of the configured batch sizes that the teacher's memory allowed; less than 1 can change last bits."""
    revision: int = 0
    """0: as it was first captured. 1 and more: recomputed because the revision before was damaged."""
    supersedes: str = ""
    """Key of the first part of the damaged revision that this one is instead of."""
    supersedes_content_hash: str = ""
    """What the damaged revision held. Another content hash here: students that read it had other contents."""

    @property
    def size(self) -> int:
        """Bytes of all parts."""
        return sum(part.bytes for part in self.parts)

    @property
    def content_changed(self) -> bool:
        """Whether this is a repair whose contents are not those of the revision before."""
        return self.revision > 0 and self.content_hash != self.supersedes_content_hash

    @staticmethod
    def of(unit: int, parts: tuple[Part, ...], targets: UnitTargets, **facts: Any) -> Entry:
        """The entry of a unit whose parts hold `targets`; `facts` are the fields that the targets do not tell."""
        return Entry(
            unit=unit,
            parts=parts,
            rows=targets.rows,
            tokens=int(targets.lengths.sum()),
            targets=int(targets.target_lengths.sum()),
            num_kept=int(targets.num_kept.sum()),
            content_hash=targets.content_hash(),
            **facts,
        )

    def to_bytes(self) -> bytes:
        return json.dumps(asdict(self), sort_keys=True).encode()

    @staticmethod
    def from_bytes(data: bytes) -> Entry:
        fields = json.loads(data)
        parts = tuple(Part(**p) for p in fields.pop("parts"))
        return Entry(parts=parts, rejected=tuple(fields.pop("rejected")), **fields)


class TargetLog:
    """The entries of one store (`targets/train` or `targets/heldout`).

    Of a unit that was repaired, the newest revision counts. Which units were is listed when it is first asked for, and
    again by `look_for_repairs`.
    """

    def __init__(self, storage: Storage, store: str, generation: str = FIRST_GENERATION) -> None:
        self._storage = storage
        self._layout = LogLayout(store, generation)
        self._revisions: dict[int, int] | None = None
        self._digests = Digests(storage, self._layout)
        self.marks = DamageMarks(storage, store)

    def commit(self, entry: Entry) -> bool:
        """Make a revision of a unit exist. False if it existed already with other content: this writer's parts are
        then garbage."""
        return self._storage.create(self._layout.entry(entry.unit, entry.revision), entry.to_bytes())

    def entry(self, unit: int, revision: int | None = None) -> Entry | None:
        """A unit's newest entry (or that of a revision), or None while it is not committed. One request."""
        key = self._layout.entry(unit, self.revision(unit) if revision is None else revision)
        try:
            entry = _parsed(key, self._storage.read(key))
        except FileNotFoundError:
            return None
        if entry.revision and self._revisions is not None:
            self._revisions[unit] = max(entry.revision, self._revisions.get(unit, 0))
        return entry

    def committed(self) -> set[int]:
        """Indices of all committed units (one listing)."""
        return {LogLayout.unit_of(key)[0] for key in self._storage.keys(self._layout.root)}

    def entries(self) -> list[Entry]:
        """The newest entry of every unit, in plan order. A million take gigabytes: see `each`."""
        return list(self.each())

    def each(self, *, digest: bool = False) -> Iterator[Entry]:
        """The newest entry of every unit as they are listed now, in plan order; in memory are a few at a time.

        Costs a request for each thousand units, to list them, and one for each entry that no digest holds. `digest`:
        put those into digests first, if there are many; this is for the one who drives the run. Raises DamagedStore
        for an entry that cannot be read.
        """
        repairs = self._look_for_repairs()
        entries = self._listed()
        if digest:
            self._digests.add(entries.and_also(repairs), self._storage.read_many)
        return self._parsed_of(_newest(entries, repairs))

    def every_revision(self) -> Iterator[Entry]:
        """Every entry of every unit in plan order, also those that a repair superseded."""
        return self._parsed_of(self._listed().and_also(self._look_for_repairs()))

    def repairs(self) -> list[Entry]:
        """The entries of all repairs."""
        return list(self._parsed_of(self._look_for_repairs()))

    def digest(self, least: int = LEAST) -> int:
        """Put entries that no digest holds into one, if there are `least` of them; returns how many there were.

        For the one who drives the run. Raises OSError if the storage fails: nothing is lost by that.
        """
        return self._digests.add(self._listed().and_also(self._look_for_repairs()), self._storage.read_many, least)

    def needless_digests(self) -> list[str]:
        """Keys of digests that hold nothing which others do not hold too."""
        return self._digests.needless(self._listed().and_also(self._look_for_repairs()))

    def revision(self, unit: int) -> int:
        """The newest known revision of a unit."""
        if self._revisions is None:
            self.look_for_repairs()
        return (self._revisions or {}).get(unit, 0)

    def look_for_repairs(self) -> None:
        """List the repairs anew."""
        self._look_for_repairs()

    def _look_for_repairs(self) -> Listed:
        repairs = Listed.of(self._storage.files(self._layout.repairs))
        # In order of units and revisions: the last one of a unit stays.
        self._revisions = dict(zip(repairs.units.tolist(), repairs.revisions.tolist(), strict=True))
        return repairs

    def _listed(self) -> Listed:
        return Listed.of(self._storage.files(self._layout.root))

    def mark_damaged(self, unit: int, revision: int, part: str, reason: str, by: str) -> None:
        """Ask for the repair of a unit; a second reporter is no error."""
        self.marks.add(unit, revision, part, reason, by)

    def damaged(self) -> list[Damage]:
        """The marks of units that were not repaired since, in plan order."""
        self.look_for_repairs()
        return sorted((d for d in self.marks.all() if d.revision >= self.revision(d.unit)), key=lambda d: d.unit)

    def _parsed_of(self, wanted: Listed) -> Iterator[Entry]:
        for unit, revision, data in self._digests.contents(wanted, self._storage.read_many):
            if data is not None:
                yield _parsed(self._layout.entry(unit, revision), data)


def _newest(entries: Listed, repairs: Listed) -> Listed:
    """Of each unit that has an entry its last repair, if it has any."""
    both = entries.and_also(repairs.where(np.isin(repairs.units, entries.units)))
    return both.where(np.diff(both.units, append=-1) != 0)


def _parsed(key: str, data: bytes) -> Entry:
    try:
        return Entry.from_bytes(data)
    except ValueError as error:
        raise DamagedStore(
            f"the log's entry {key} cannot be read ({error}); delete it, then run `stillhouse capture CONFIG`, which "
            "recomputes its unit"
        ) from None
