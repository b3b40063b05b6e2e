"""The students' side of a run: a supervisor, and a call of it, for each group of students that share workers."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from cluster.inventory import cluster_nodes
from cluster.placement import beside_driver, free_groups_made_by
from cluster.resources import table
from orchestrator.config.students import Student, student_groups
from orchestrator.driver.calls import take_ended
from orchestrator.driver.turns import Turns
from orchestrator.runs.context import RunContext
from orchestrator.stages.training.jobs import make_job
from orchestrator.stages.training.supervisor import LEFT, Failures, Supervisor, progress_marker
from workers.channels.events import PlaceEnded, PlaceWanted, StudentState
from workers.channels.messages import ControlMessage, StudentPlaced, StudentRestarted, UnitCaptured
from workers.failures import end_of_actor, first_cause
from workers.student.training.resources import resource_request
from workers.targets.contract import Contract

_PATIENCE_S = 60.0
"""Seconds in which students take their places before more teacher replicas may take what is left, and after which one
that has none is named."""

_MOST_LOSSES = 3
"""Supervisors of a group lost in a row, with no checkpoint between, before its student has failed."""


@dataclass(eq=False)
class Group:
    """Students that share workers, and who looks after them."""

    students: list[Student]
    supervisor: Any = None
    """Held as long as it is at work: an actor that nobody holds ends."""
    place: str | None = None
    """Id of the placement group that its workers are in; None while they look for one."""
    since: float = 0.0
    """Since when it looks for a place."""
    losses: Failures = field(default_factory=Failures)
    """Of supervisors that died."""

    @property
    def names(self) -> list[str]:
        return [student.name for student in self.students]


@dataclass(frozen=True)
class EndedGroup:
    """A group of students whose training ended, or whose supervisor died."""

    group: Group
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
        self.turns = Turns(ctx, [group for group in groups if group])
        self._calls: dict[Any, Group] = {}
        self._started = self._told = 0.0

    @property
    def started(self) -> bool:
        """Whether the students look for their places."""
        return bool(self._started)

    def start(self) -> None:
        """Let students look for their places, each when its turn has come."""
        self._started = self._told = time.monotonic()
        for name, done in self._done.items():
            tokens = int(done["tokens"])
            self._ctx.report(StudentState(student=name, state="done", tokens=tokens, budget=tokens))
        for student in (s for group in self.turns.queue for s in group):
            self._tell_queued(student)
        self._send_due(captured=False)

    def take(self, message: ControlMessage) -> None:
        """A student has its place, until its workers are lost."""
        match message:
            case StudentPlaced(student=student, place=place):
                for group in self._groups_of(student):
                    self._end_search(group, found=True)
                    group.place = place
            case StudentRestarted(student=student):
                for group in self._groups_of(student):
                    self._look_for_place(group)
            case UnitCaptured():
                self.turns.note(message)

    def finished(self) -> list[EndedGroup]:
        """The groups that ended since the last call."""
        return [
            EndedGroup(group, error) if lost is None else EndedGroup(group, _why(group, lost), supervisor_lost=True)
            for group, error, lost in take_ended(self._calls)
        ]

    def poll(self, ended: list[EndedGroup], *, captured: bool = True) -> TrainingStatus:
        """Go on after the groups that ended; a failure is noted and shown, the others go on. `captured`: no teacher is
        at work any more."""
        for one in ended:
            self._end_search(one.group, found=False)
            if one.supervisor_lost:
                free_groups_made_by(one.group.supervisor._actor_id.hex())  # its workers ended with it; places did not
            one.group.supervisor = None
            if one.supervisor_lost and self._may_go_on(one.group):
                self._ctx.say(f"{one.error}; {one.group.names[0]} is started again from its last checkpoint")
                self._send(one.group)
            elif one.error is not None:
                self._note_failure(one.group.students, one.error)
        if self.started:
            self._send_due(captured=captured)
        self._tell_pending()
        placed = not self.turns.queue and all(group.place is not None for group in self._calls.values())
        settled = self.started and (placed or time.monotonic() - self._started > _PATIENCE_S)
        return TrainingStatus(settled=settled, over=self.started and not self._calls and not self.turns.queue)

    def leaving(self, ended: list[EndedGroup]) -> list[str]:
        """After all were asked to leave: the students of groups that have places still."""
        for one in ended:
            if one.error is not None and one.error != LEFT and not one.supervisor_lost:
                self._note_failure(one.group.students, one.error)
        return [name for group in self._calls.values() if group.place is not None for name in group.names]

    def _send_due(self, *, captured: bool) -> None:
        """Send the groups whose turn has come."""
        looking = sum(group.place is None for group in self._calls.values())
        for students in self.turns.next(len(self._calls), looking, captured=captured):
            self._send(Group(students))

    def _send(self, group: Group) -> None:
        """Send a group to a supervisor of its own."""
        jobs = [make_job(s, self._ctx, self._declared, repairs=self._repairs) for s in group.students]
        where = beside_driver()  # Ray would choose any node, and a lost one would be the end of the student
        group.supervisor = Supervisor.options(scheduling_strategy=where).remote()  # type: ignore[attr-defined]
        self._look_for_place(group)
        self._calls[group.supervisor.train.remote(jobs, self._ctx.config.cluster.placement_deadline_s)] = group

    def _may_go_on(self, group: Group) -> bool:
        """Whether a group whose supervisor died is sent to another one."""
        return group.losses.note(progress_marker(self._ctx.run.storage, group.names)) < _MOST_LOSSES

    def _groups_of(self, student: str) -> list[Group]:
        return [group for group in self._calls.values() if student in group.names]

    def _look_for_place(self, group: Group) -> None:
        """A group has no place, or no more, and looks for one from now on."""
        group.since, group.place = time.monotonic(), None
        request, name = resource_request(group.students[0].config.train), group.names[0]
        bundle, labels = dict(request.bundles[0]), dict(request.labels)
        processes = len(request.bundles)
        self._ctx.report(PlaceWanted(place=name, student=name, processes=processes, resources=bundle, labels=labels))

    def _end_search(self, group: Group, *, found: bool) -> None:
        """A group that looked for a place has found one, or has ended without."""
        if group.place is None:
            self._ctx.report(PlaceEnded(place=group.names[0], student=group.names[0], found=found))
        group.place = None

    def _tell_queued(self, student: Student) -> None:
        budget = student.end_tokens or student.config.train.tokens
        self._ctx.report(StudentState(student=student.name, state="queued", budget=budget))

    def _note_failure(self, students: list[Student], error: str) -> None:
        self._ctx.require_lease()
        name = next((s.name for s in students if self._ctx.run.student_done(s.name) is None), students[0].name)
        self._failures[name] = error
        self._ctx.report(StudentState(student=name, state="failed", note=error))
        self._ctx.say(f"{name} FAILED: {error}; the others continue")

    def _tell_pending(self) -> None:
        """Name, once a minute, the students that look for a place, what they ask for, and what the cluster has."""
        if not self._calls or time.monotonic() - self._told < _PATIENCE_S:
            return
        self._told = time.monotonic()
        for group in self._calls.values():
            if group.place is None:
                requested, available = resource_request(group.students[0].config.train), table(cluster_nodes())
                waited = time.monotonic() - group.since
                self._ctx.say(
                    f"{group.names[0]} is pending for {waited:.0f} s: requested {requested}, available {available}"
                )


def _why(group: Group, lost: BaseException) -> str:
    """What became of a group's supervisor, or what it raised."""
    how = end_of_actor(lost)
    return first_cause(lost) if how is None else f"the process that looks after the training of {group.names[0]} {how}"
