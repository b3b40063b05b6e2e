"""Damage: a committed part whose bytes are not those that the log promises, and the marks that ask for its repair.

Whoever reads a damaged part marks it; whoever teaches finds the mark and teaches the unit again as its next revision
(log.py). A mark says "look here", not "this is so": the repairer reads the part first, and takes the mark away where
it finds nothing wrong.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass

from cluster.storage import Storage

MOST_REVISIONS = 3
"""Repairs of one unit at most: a store that damages each of them would damage the next one too."""


class DamagedStore(ValueError):
    """Something that the whole store needs is missing or not as it was written; no unit taught again would mend it."""


class DamagedShard(ValueError):
    """A part that is missing or does not have the bytes that the log promises."""

    def __init__(self, unit: int, revision: int, part: str, reason: str, remedy: str = "") -> None:
        super().__init__(unit, revision, part, reason, remedy)
        self.unit, self.revision, self.part, self.reason, self.remedy = unit, revision, part, reason, remedy

    def __str__(self) -> str:
        return f"unit {self.unit}: {self.reason}" + (f"; {self.remedy}" if self.remedy else "")

    def with_remedy(self, then: str, promise: str = "") -> DamagedShard:
        """The same, with what to do where nobody teaches: `then` is the command that goes on afterwards."""
        remedy = f"it is marked; run `stillhouse teach CONFIG`, which teaches it again, then `{then}`"
        remedy += f": {promise}" if promise else ""
        return DamagedShard(self.unit, self.revision, self.part, self.reason, remedy)


@dataclass(frozen=True)
class Damage:
    """A mark: revision `revision` of a unit (0 is as it was first taught) was found damaged."""

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
        self._storage, self._prefix = storage, f"{store}/damaged"

    def add(self, unit: int, revision: int, part: str, reason: str, by: str) -> None:
        """Mark a revision of a unit; the first reporter's mark stays."""
        mark = Damage(unit, revision, part, reason, by, time.time())
        self._storage.create(self._key(unit, revision), json.dumps(asdict(mark)).encode())

    def all(self) -> list[Damage]:
        """Every mark, also those of revisions that were repaired since."""
        found = self._storage.read_many(self._storage.keys(self._prefix))
        return [Damage(**json.loads(data)) for data in found if data is not None]

    def exists(self, unit: int, revision: int) -> bool:
        """Whether a revision is marked."""
        return self._storage.exists(self._key(unit, revision))

    def withdraw(self, unit: int, revision: int) -> None:
        """Take a mark away: the part reads fine."""
        self._storage.delete(self._key(unit, revision))

    def _key(self, unit: int, revision: int) -> str:
        return f"{self._prefix}/{unit:08d}.r{revision}.json"


def given_up(split: str, unit: int, revision: int, where: str, reason: str) -> str:
    """What to say of a unit that is damaged again after its last repair."""
    return (
        f"unit {unit} of the {split} store was taught again {revision} times and is damaged again ({reason}): "
        f"{where} does not keep what is written to it. Check that storage, and the memory and network of the machines "
        "that read and write it; copy the run to another place before going on"
    )
