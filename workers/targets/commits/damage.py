"""Damage: a committed part whose bytes are not those that the log promises, and the marks that ask for its repair.

Whoever reads a damaged part marks it; a teacher's replica finds the mark and recomputes the unit as its next revision
(log.py). A mark says "look here", not "this is so": the repairer reads the part first, and takes the mark away where
it finds nothing wrong.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass

from cluster.storage import Storage
from workers.layout import damage_folder, damage_key

MOST_REVISIONS = 3
"""Repairs of one unit at most: a store that damages each of them would damage the next one too."""


class DamagedStore(ValueError):
    """Something that the whole store needs is missing or not as it was written; no unit recomputed would fix it."""


class DamagedShard(ValueError):
    """A part that is missing or does not have the bytes that the log promises."""

    def __init__(self, unit: int, revision: int, part: str, reason: str, remedy: str = "") -> None:
        super().__init__(unit, revision, part, reason, remedy)
        self.unit, self.revision, self.part, self.reason, self.remedy = unit, revision, part, reason, remedy

    def __str__(self) -> str:
        return f"unit {self.unit}: {self.reason}" + (f"; {self.remedy}" if self.remedy else "")

    def with_remedy(self, then: str, promise: str = "") -> DamagedShard:
        """The same, with what to do where no teacher runs: `then` is the command that goes on afterwards."""
        remedy = f"it is marked; run `stillhouse capture CONFIG`, which recomputes it, then `{then}`"
        remedy += f": {promise}" if promise else ""
        return DamagedShard(self.unit, self.revision, self.part, self.reason, remedy)


@dataclass(frozen=True)
class Damage:
    """A mark: revision `revision` of a unit (0 is as it was first captured) was found damaged."""

    unit: int
    revision: int
    part: str
    """Key of the damaged part."""
    reason: str
    by: str
    """Who found it: a student's name, or a stage of the run."""
    found: float
    """Seconds since 1970."""


class DamageMarks:
    """The marks of one store."""

    def __init__(self, storage: Storage, store: str) -> None:
        self._storage, self._store = storage, store

    def add(self, unit: int, revision: int, part: str, reason: str, by: str) -> None:
        """Mark a revision of a unit; the first reporter's mark stays."""
        mark = Damage(unit, revision, part, reason, by, time.time())
        self._storage.create(damage_key(self._store, unit, revision), json.dumps(asdict(mark)).encode())

    def all(self) -> list[Damage]:
        """Every mark, also those of revisions that were repaired since."""
        found = self._storage.read_many(self._storage.keys(damage_folder(self._store)))
        return [Damage(**json.loads(data)) for data in found if data is not None]

    def exists(self, unit: int, revision: int) -> bool:
        """Whether a revision is marked."""
        return self._storage.exists(damage_key(self._store, unit, revision))

    def withdraw(self, unit: int, revision: int) -> None:
        """Take a mark away: the part reads fine."""
        self._storage.delete(damage_key(self._store, unit, revision))


def given_up(split: str, unit: int, revision: int, where: str, reason: str) -> str:
    """What to say of a unit that is damaged again after its last repair."""
    return (
        f"unit {unit} of the {split} store was recomputed {revision} times and is damaged again ({reason}): "
        f"{where} does not keep what is written to it. Check that storage, and the memory and network of the machines "
        "that read and write it; copy the run to another place before going on"
    )
