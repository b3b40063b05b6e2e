"""Runs of Weights & Biases: a group, and in it a run for each student and one for the teachers, with fixed ids.

W&B's own process takes points over and keeps them in local files until it has sent them; `send` waits for no server. A
step below one that a run has already is refused by W&B, so what is sent twice is kept once.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from orchestrator.config.trackers import WandbConfig
from orchestrator.trackers.group import Group
from orchestrator.trackers.points import Point


class WandbRuns:
    """Live runs of one process side by side; scores of the end are in their summaries."""

    def __init__(self, config: WandbConfig, group: Group) -> None:
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # before the import
        import wandb

        self._wandb, self._config, self._group = wandb, config, group
        self._runs: dict[str, Any] = {}

    def send(self, points: Sequence[Point]) -> None:
        """Hand points over."""
        for point in points:
            run = self._run_of(point.student)
            if point.final:
                run.summary.update({**point.named(), **({"verdict": point.verdict} if point.verdict else {})})
            else:
                run.log({**point.named(), "_timestamp": point.time}, step=point.step)

    def close(self) -> None:
        """Wait until all is sent, or offline in the files."""
        for run in self._runs.values():
            run.finish()
        self._wandb.teardown()

    def _run_of(self, student: str) -> Any:
        if student not in self._runs:
            self._runs[student] = self._wandb.init(
                project=self._config.project,
                entity=self._config.entity,
                group=self._group.run,
                id=self._group.id_of(student),
                name=student or self._group.run,
                job_type="specialist" if student else "teachers",
                config={"run": self._group.run, "uri": self._group.uri, "specialist": student},
                resume="allow",
                reinit="create_new",
                mode="offline" if self._config.offline else "online",
                dir=os.path.expanduser(self._config.folder) if self._config.folder is not None else None,
                settings=self._wandb.Settings(
                    console="off", silent=True, disable_git=True, disable_code=True, x_disable_stats=True
                ),
            )
        return self._runs[student]
