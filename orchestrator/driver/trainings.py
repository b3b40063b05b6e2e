"""The students' side of a run: one supervisor, and a call for each group of students that share workers."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from cluster.inventory import cluster_nodes
from cluster.placement import beside_driver, free_group_with
from cluster.resources import table
from orchestrator.config.students import Student, student_groups
from orchestrator.driver.calls import take_ended
from orchestrator.runs.context import RunContext
from orchestrator.stages.students import make_job
from orchestrator.stages.supervisor import Supervisor
from workers.channels.events import StudentState
from workers.channels.messages import ControlMessage, StudentPlaced, StudentRestarted
from workers.failures import first_cause
from workers.student.training.resources import resource_request
from workers.targets.contract import Contract

_PATIENCE_S = 60.0
"""Seconds in which students take their places before more teacher replicas may take what is left, and after which one
that has none is named."""


@dataclass(frozen=True)
class EndedGroup:
    """A group of students whose training ended."""

    students: list[Student]
    error: str | None
    """First cause of its failure."""
    supervisor_lost: bool = False


@dataclass(frozen=True)
class TrainingStatus:
    """How far the students are."""

    settled: bool
    """Whether all have their places, or had a while to take them."""
    over: bool


class Trainings:
    """The students that are to be trained; `failures` takes the first cause of each that fails.

    `declared` is what they expect of their targets. `repairs`: whether a teacher recomputes what they find damaged.
    """

    def __init__(
        self, ctx: RunContext, only: list[str], declared: Contract, failures: dict[str, str], *, repairs: bool
    ) -> None:
        self._ctx, self._declared, self._repairs, self._failures = ctx, declared, repairs, failures
        asked = [group for group in student_groups(ctx.config) if not only or group[0].name in only]
        self._done = {s.name: done for group in asked for s in group if (done := ctx.run.student_done(s.name))}
        """What those left that were trained before."""
        groups = [[s for s in group if s.name not in self._done] for group in asked]
        self._groups = [group for group in groups if group]
        self._calls: dict[Any, list[Student]] = {}
        self._places: dict[str, str] = {}
        """Ids of the placement groups of students that have one."""
        self._since: dict[str, float] = {}
        """Since when students look for a place."""
        self._started = self._told = 0.0

    @property
    def started(self) -> bool:
        """Whether the students look for their places."""
        return bool(self._started)

    def start(self) -> None:
        """Send every group of students to the supervisor."""
        self._started = self._told = time.monotonic()
        self._since = {student.name: self._started for group in self._groups for student in group}
        for name, done in self._done.items():
            tokens = int(done["tokens"])
            self._ctx.report(StudentState(student=name, state="done", tokens=tokens, budget=tokens))
        for student in (s for group in self._groups for s in group):
            budget = student.end_tokens or student.config.train.tokens
            self._ctx.report(StudentState(student=student.name, state="queued", budget=budget))
        if not self._groups:
            return
        where = beside_driver()  # Ray would choose any node, and a lost one would be the end of all students
        supervisor = Supervisor.options(max_concurrency=len(self._groups), scheduling_strategy=where).remote()  # type: ignore[attr-defined]
        for group in self._groups:
            jobs = [make_job(s, self._ctx, self._declared, repairs=self._repairs) for s in group]
            self._calls[supervisor.train.remote(jobs, self._ctx.config.cluster.placement_deadline_s)] = group

    def take(self, message: ControlMessage) -> None:
        """A student has its place, until its workers are lost."""
        match message:
            case StudentPlaced(student=student, place=place):
                self._places[student] = place
            case StudentRestarted(student=student):
                for names in map(_names, self._calls.values()):
                    if student in names:
                        self._lose_places(names)

    def finished(self) -> list[EndedGroup]:
        """The groups that ended since the last call."""
        return [
            EndedGroup(group, error) if lost is None else EndedGroup(group, first_cause(lost), supervisor_lost=True)
            for group, error, lost in take_ended(self._calls)
        ]

    def poll(self, ended: list[EndedGroup]) -> TrainingStatus:
        """Go on after the groups that ended; a failure is noted and shown, the others go on."""
        for group in ended:
            places = self._lose_places(_names(group.students))
            if group.supervisor_lost:
                for place in filter(None, places):
                    free_group_with(place)  # its workers ended with it; their places did not
            if group.error is not None:
                self._note_failure(group.students, group.error)
        self._tell_pending()
        placed = all(self._places.keys() & _names(group) for group in self._calls.values())
        settled = self.started and (placed or time.monotonic() - self._started > _PATIENCE_S)
        return TrainingStatus(settled=settled, over=self.started and not self._calls)

    def _lose_places(self, names: set[str]) -> list[str]:
        """Some students have no places any more, and look for others from now on; returns which they had."""
        self._since |= dict.fromkeys(names, time.monotonic())
        return [self._places.pop(name) for name in names & self._places.keys()]

    def _note_failure(self, group: list[Student], error: str) -> None:
        self._ctx.require_lease()
        name = next((s.name for s in group if self._ctx.run.student_done(s.name) is None), group[0].name)
        self._failures[name] = error
        self._ctx.report(StudentState(student=name, state="failed", note=error))
        self._ctx.say(f"{name} FAILED: {error}; the others continue")

    def _tell_pending(self) -> None:
        """Name, once a minute, the students that have no place yet, what they ask for, and what the cluster has."""
        if not self._calls or time.monotonic() - self._told < _PATIENCE_S:
            return
        self._told = time.monotonic()
        for group in self._calls.values():
            if not self._places.keys() & _names(group):
                requested, available = resource_request(group[0].config.train), table(cluster_nodes())
                waited = time.monotonic() - self._since[group[0].name]
                self._ctx.say(
                    f"{group[0].name} is pending for {waited:.0f} s: requested {requested}, available {available}"
                )


def _names(group: list[Student]) -> set[str]:
    return {student.name for student in group}
