"""What was repaired, and whose training had read what a repair did not bring back."""

from __future__ import annotations

import json
from typing import Any

from orchestrator.config.schema import RunConfig
from orchestrator.config.students import Student, student_groups
from orchestrator.runs.folder import RunFolder
from workers.layout import StudentLayout
from workers.manifest import read_plan
from workers.splits import SPLITS, TRAIN
from workers.targets.commits.log import Entry
from workers.targets.reader import Cursor
from workers.targets.store import TargetStore
from workers.units import UnitPlan


def repairs(run: RunFolder, config: RunConfig) -> list[dict[str, Any]]:
    """The repairs of all splits, each with the students that were trained on contents which it did not bring back."""
    found = []
    for split in SPLITS:
        entries = TargetStore(run.storage, split).log.repairs()
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
        for student in (s for chain in student_groups(config) for s in chain):
            if pointers := run.storage.keys(StudentLayout(student.name).pointers):
                cursor = json.loads(run.storage.read(pointers[-1]))["cursor"]
                self._students.append((student, Cursor.from_dict(cursor)))

    def of_earlier(self, repair: Entry) -> list[str]:
        """Students that had read an earlier revision of a unit, as far as checkpoints tell."""
        names = []
        for student, cursor in self._students:
            plan = self._plan.given() if student.given_only else self._plan
            units_of = {d: plan.of_domain(d) for d in cursor.domains}
            if cursor.has_read(repair.unit, units_of, below=repair.revision):
                names.append(student.name)
        return names
