"""Runs of a local Trackio project, in its SQLite database: a run for each student and one for the teachers.

Written as Trackio's own imports are, in bulk: `trackio.Run.log` swallows errors and knows no time but now. Points have
ids, so that one which is sent twice is kept once. One process writes: this one.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from orchestrator.config.trackers import TrackioConfig
from orchestrator.trackers.group import Group
from orchestrator.trackers.points import Point


class TrackioRuns:
    """A database of a project."""

    def __init__(self, config: TrackioConfig, group: Group) -> None:
        if config.folder is not None:
            os.environ["TRACKIO_DIR"] = os.path.abspath(os.path.expanduser(config.folder))  # read by the import
        from trackio.sqlite_storage import SQLiteStorage

        self._storage, self._project, self._group = SQLiteStorage, config.project, group

    def send(self, points: Sequence[Point]) -> None:
        """Write points, in a transaction for each student."""
        by_student: dict[str, list[Point]] = defaultdict(list)
        for point in points:
            by_student[point.student].append(point)
        for student, own in by_student.items():
            run = self._group.id_of(student)
            self._storage.bulk_log(
                self._project,
                student or self._group.run,
                [_values(point) for point in own],
                steps=[point.step for point in own],
                timestamps=[datetime.fromtimestamp(point.time, UTC).isoformat() for point in own],
                config={"_Group": self._group.run, "_Username": None, "uri": self._group.uri},
                log_ids=[f"{run} {point.teacher} {point.step} {point.time}" for point in own],
                run_id=run,
            )

    def close(self) -> None:
        """Nothing is open between two calls."""


def _values(point: Point) -> dict[str, Any]:
    return {**point.named(), **({"verdict": point.verdict} if point.verdict else {})}
