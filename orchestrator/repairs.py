"""Damaged units: which are to be taught again, and whose training had read what a repair did not bring back."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from orchestrator.config import RunConfig
from orchestrator.errors import RunFailed
from orchestrator.run_folder import RunFolder
from orchestrator.students import Student, lineup
from workers.manifest import read_plan
from workers.splits import SPLITS, TRAIN
from workers.targets.damage import MOST_REVISIONS, given_up
from workers.targets.log import Entry, TargetLog
from workers.targets.reader import Cursor
from workers.targets.store import TargetStore
from workers.units import UnitPlan


def units_to_repair(run: RunFolder, split: str, entries: Iterable[Entry]) -> dict[int, int]:
    """Units that are marked damaged, or whose part is missing or of another size, and the revision to make of each.

    `entries` are the newest ones of the split's log. Bytes that changed in place are found by whoever reads them.
    Raises RunFailed for a unit that was repaired `MOST_REVISIONS` times.
    """
    sizes = {f.key: f.bytes for f in run.storage.listing(f"targets/{split}/parts")}
    marks = TargetLog(run.storage, f"targets/{split}").damaged()
    found = {d.unit: (d.revision, d.reason) for d in marks}
    for entry in entries:
        for part in entry.parts:
            if sizes.get(part.key) != part.bytes:
                size = f"has {sizes[part.key]} bytes instead of {part.bytes}" if part.key in sizes else "is missing"
                found.setdefault(entry.unit, (entry.revision, f"its part {part.key} {size}"))
    return {u: _next_revision(run, split, u, revision, why) for u, (revision, why) in sorted(found.items())}


def rows_of_marked(run: RunFolder, split: str, units: set[int]) -> list[dict[str, Any]]:
    """Rows of a teaching pass over those of `units` that are marked damaged and not repaired yet. Raises as above."""
    damages = [d for d in TargetStore(run.storage, split).log.damaged() if d.unit in units]
    return [
        {"split": split, "unit": d.unit, "repair": _next_revision(run, split, d.unit, d.revision, d.reason)}
        for d in damages
    ]


def _next_revision(run: RunFolder, split: str, unit: int, revision: int, reason: str) -> int:
    """The revision to make of a unit whose `revision` is damaged."""
    if revision >= MOST_REVISIONS:
        raise RunFailed(given_up(split, unit, revision, run.uri, reason))
    return revision + 1


def repairs(run: RunFolder, config: RunConfig) -> list[dict[str, Any]]:
    """The repairs of all splits, each with the students that were trained on contents which it did not bring back."""
    found = []
    for split in SPLITS:
        entries = TargetLog(run.storage, f"targets/{split}").repairs()
        readers = _Readers(run, config) if split == TRAIN and any(e.content_changed for e in entries) else None
        for entry in entries:
            names = readers.of_earlier(entry) if readers is not None and entry.content_changed else []
            changed = entry.content_changed
            found.append(
                {"split": split, "unit": entry.unit, "revision": entry.revision, "changed": changed, "readers": names}
            )
    return found


class _Readers:
    """What each student had read at its newest checkpoint."""

    def __init__(self, run: RunFolder, config: RunConfig) -> None:
        self._plan: UnitPlan = read_plan(run.storage, TRAIN)
        self._students: list[tuple[Student, Cursor]] = []
        for student in (s for chain in lineup(config) for s in chain):
            if pointers := run.storage.keys(f"students/{student.name}/log"):
                cursor = json.loads(run.storage.read(pointers[-1]))["cursor"]
                self._students.append((student, Cursor.from_dict(cursor)))

    def of_earlier(self, repair: Entry) -> list[str]:
        """Students that had read an earlier revision of a unit, as far as checkpoints tell."""
        names = []
        for student, cursor in self._students:
            units_of = {d: self._plan.of_domain(d) for d in cursor.domains}
            if cursor.has_read(repair.unit, units_of, below=repair.revision):
                names.append(student.name)
        return names
