"""The log of a target store: one entry per unit, made by create-if-absent. The only truth about what exists.

Parts are invisible until an entry names them. Commit order means nothing; plan order is the order.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any

from cluster.storage import Storage
from workers.splits import GENERATION
from workers.targets.arrays import UnitTargets


@dataclass(frozen=True)
class Part:
    """One Parquet file of a unit. `role` is `targets`, or `draw1` ... for further draws."""

    role: str
    key: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Entry:
    """What a unit's commit says. A unit of nothing but prompts set aside is committed with no parts."""

    unit: int
    parts: tuple[Part, ...]
    rows: int
    tokens: int
    """Tokens of all texts."""
    targets: int
    """Target positions."""
    entries: int
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
    set_aside: tuple[dict[str, Any], ...] = field(default_factory=tuple)
    """Prompts of the unit that have no row here: {id, reason}."""

    @staticmethod
    def of(unit: int, parts: tuple[Part, ...], targets: UnitTargets, **facts: Any) -> Entry:
        """The entry of a unit whose parts hold `targets`; `facts` are the fields that the targets do not tell."""
        return Entry(
            unit=unit,
            parts=parts,
            rows=targets.rows,
            tokens=int(targets.lengths.sum()),
            targets=int(targets.target_lengths.sum()),
            entries=int(targets.entries.sum()),
            content_hash=targets.content_hash(),
            **facts,
        )

    def to_bytes(self) -> bytes:
        return json.dumps(asdict(self), sort_keys=True).encode()

    @staticmethod
    def from_bytes(data: bytes) -> Entry:
        fields = json.loads(data)
        parts = tuple(Part(**p) for p in fields.pop("parts"))
        return Entry(parts=parts, set_aside=tuple(fields.pop("set_aside")), **fields)


class TargetLog:
    """The entries of one store (`targets/train` or `targets/heldout`)."""

    def __init__(self, storage: Storage, store: str) -> None:
        self._storage = storage
        self._prefix = f"{store}/log/{GENERATION}"

    def _key(self, unit: int) -> str:
        return f"{self._prefix}/{unit:08d}.json"

    def commit(self, entry: Entry) -> bool:
        """Make a unit exist. False if it existed already with other content: this writer's parts are then garbage."""
        return self._storage.create(self._key(entry.unit), entry.to_bytes())

    def entry(self, unit: int) -> Entry | None:
        """The entry of a unit, or None while it is not committed."""
        try:
            return Entry.from_bytes(self._storage.read(self._key(unit)))
        except FileNotFoundError:
            return None

    def committed(self) -> set[int]:
        """Indices of all committed units (one listing)."""
        return {int(key.rsplit("/", 1)[1].removesuffix(".json")) for key in self._storage.keys(self._prefix)}

    def entries(self) -> list[Entry]:
        """All entries, in plan order."""
        return [e for unit in sorted(self.committed()) if (e := self.entry(unit)) is not None]
