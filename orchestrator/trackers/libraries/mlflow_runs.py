"""Runs of an MLflow tracking server: one for the run and the teachers, and below it one for each student.

They carry a tag with their key, by which a later attempt finds them again. Points have the time of their event, so that
one which is sent twice is the same row to the server, and kept once.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Sequence

from orchestrator.config.trackers import MlflowConfig
from orchestrator.trackers.group import Group
from orchestrator.trackers.points import Point

KEY = "stillhouse.key"
"""Tag by which runs are found again."""

_AT_ONCE = 1000
"""Metrics that a request may hold."""

_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",  # what fails is begun anew here, and told meanwhile
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
}


class MlflowRuns:
    """By client and explicit run ids: the fluent interface has one run a thread."""

    def __init__(self, config: MlflowConfig, group: Group) -> None:
        for setting, value in _ENVIRONMENT.items():
            os.environ.setdefault(setting, value)  # before the import
        from mlflow.tracking import MlflowClient

        self._client, self._group = MlflowClient(config.uri), group
        experiment = self._client.get_experiment_by_name(config.experiment)
        self._experiment = (
            experiment.experiment_id if experiment is not None else self._client.create_experiment(config.experiment)
        )
        self._runs: dict[str, str] = {}
        """Ids by student; that of the teachers has an empty name."""
        self._run_of("")

    def send(self, points: Sequence[Point]) -> None:
        """Send points, in as few requests as may be."""
        from mlflow.entities import Metric

        by_student: dict[str, list[Metric]] = defaultdict(list)
        for point in points:
            by_student[point.student] += [
                Metric(key, value, round(1000 * point.time), point.step) for key, value in point.named().items()
            ]
        for student, metrics in by_student.items():
            for start in range(0, len(metrics), _AT_ONCE):
                self._client.log_batch(self._run_of(student), metrics=metrics[start : start + _AT_ONCE])
        for point in points:
            if point.verdict:
                self._client.set_tag(self._run_of(point.student), "verdict", point.verdict)

    def close(self) -> None:
        """Mark the runs as ended; a later attempt opens them again."""
        for run in self._runs.values():
            self._client.set_terminated(run)

    def _run_of(self, student: str) -> str:
        if student not in self._runs:
            self._runs[student] = self._found(student) or self._made(student)
        return self._runs[student]

    def _found(self, student: str) -> str | None:
        found = self._client.search_runs([self._experiment], f"tags.`{KEY}` = '{self._group.id_of(student)}'")
        if not found:
            return None
        run: str = found[0].info.run_id
        self._client.update_run(run, status="RUNNING")
        return run

    def _made(self, student: str) -> str:
        tags = {KEY: self._group.id_of(student), "stillhouse.run": self._group.run, "stillhouse.uri": self._group.uri}
        if student:
            tags |= {"mlflow.parentRunId": self._run_of(""), "stillhouse.specialist": student}
        made = self._client.create_run(self._experiment, tags=tags, run_name=student or self._group.run)
        return str(made.info.run_id)
