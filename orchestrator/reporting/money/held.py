"""Who held places in a cluster, and for how long, from the events of all attempts at a run in their order.

A replica of a teacher holds its place from when it begins to load to the last that was heard of it; workers of a
student from when they begin to load to its end, its loss, or the last word of the attempt. What is held of events is
a sum for each part: it can be kept of a run at work, and of any number of events.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import NamedTuple

from workers.channels.events import (
    CaptureStarted,
    CheckpointSaved,
    EvaluationStarted,
    Event,
    ModelScored,
    ReplicaAtWork,
    ReplicaLoading,
    ReplicaReady,
    RunStarted,
    StageStarted,
    StudentState,
    StudentStep,
    StudentWaiting,
    UnitCommitted,
)


class Captured(NamedTuple):
    """Which units: whose, for what, about what."""

    teacher: str
    split: str
    domain: str


@dataclass
class _Span:
    """A time that may go on."""

    start: float
    last: float
    workers: int = 0

    @property
    def seconds(self) -> float:
        return max(self.last - self.start, 0.0)


@dataclass
class Held:
    """Sums by part. All are seconds of the clock, of one process or of one place each."""

    stages: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    """By stage."""
    teachers: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    """Of replicas, by teacher."""
    students: dict[str, dict[int, float]] = field(default_factory=dict)
    """By student and number of its workers; 0 where that is not known."""
    scoring: float = 0.0
    """Of the evaluation."""
    busy: dict[Captured, float] = field(default_factory=lambda: defaultdict(float))
    """Seconds in which a replica made units that count; of several domains, shared out equally."""
    targets: dict[Captured, float] = field(default_factory=lambda: defaultdict(float))
    """Target tokens of these units, shared out likewise; one that is recomputed counts once."""
    tokens: dict[str, int] = field(default_factory=dict)
    """Target tokens that each student has trained on."""
    _replicas: dict[tuple[str, str], _Span] = field(default_factory=dict)
    _chains: dict[str, tuple[str, _Span]] = field(default_factory=dict)
    """The student that each specialist's workers are at, and since when: they train its controls after it."""
    _stage: tuple[str, _Span] | None = None
    _evaluation: _Span | None = None
    _teacher: str = ""
    """Of which the last pass was begun: whose a unit of an earlier version's log is."""

    def take(self, event: Event) -> None:
        """Take an event in."""
        if self._stage is not None and not isinstance(event, RunStarted):
            self._stage[1].last = max(self._stage[1].last, event.time)
        match event:
            case RunStarted():
                self._close_all()
            case StageStarted(stage=stage):
                self._close_stage()
                self._stage = stage, _Span(event.time, event.time)
            case CaptureStarted(teacher=teacher):
                self._teacher = teacher
            case ReplicaLoading() | ReplicaReady() | ReplicaAtWork():
                self._replica(event)
            case UnitCommitted():
                self._unit(event)
            case StudentState() | StudentStep() | StudentWaiting() | CheckpointSaved():
                self._student(event)
            case EvaluationStarted(units=units, scored=scored):
                self._evaluation = _Span(event.time, event.time) if scored < units else None
            case ModelScored():
                if self._evaluation is not None:
                    self._evaluation.last = event.time

    def so_far(self) -> Held:
        """The sums with what is held still, up to the last word of it. The sums go on."""
        found = Held(
            defaultdict(float, self.stages),
            defaultdict(float, self.teachers),
            {name: dict(own) for name, own in self.students.items()},
            *(self.scoring, self.busy, self.targets, self.tokens, dict(self._replicas), dict(self._chains)),
            *(self._stage, self._evaluation),
        )
        found._close_all()
        return found

    def _replica(self, event: ReplicaLoading | ReplicaReady | ReplicaAtWork) -> None:
        key = event.teacher, event.replica
        if isinstance(event, ReplicaLoading) and (before := self._replicas.pop(key, None)) is not None:
            self.teachers[event.teacher] += before.seconds  # its first place was freed or lost
        span = self._replicas.setdefault(key, _Span(event.time, event.time))
        span.last = max(span.last, event.time)

    def _unit(self, event: UnitCommitted) -> None:
        teacher = event.teacher or self._teacher
        if event.replica:
            span = self._replicas.setdefault((teacher, event.replica), _Span(event.started, event.time))
            span.last = max(span.last, event.time)
        elif not self._replicas:
            self._replicas[teacher, ""] = _Span(event.started, event.finished)
        elif len(self._replicas) == 1:
            [span] = self._replicas.values()
            span.last = max(span.last, event.finished)
        if not event.won:
            return
        for domain in event.domains:
            which = Captured(teacher, event.split, domain)
            self.busy[which] += (event.finished - event.started) / len(event.domains)
            self.targets[which] += 0 if event.revision else event.targets / len(event.domains)

    def _student(self, event: StudentState | StudentStep | StudentWaiting | CheckpointSaved) -> None:
        name, chain = event.student, event.student.partition(".")[0]
        if not isinstance(event, StudentWaiting):
            self.tokens[name] = max(self.tokens.get(name, 0), event.tokens)
        state = event.state if isinstance(event, StudentState) else ""
        if state == "queued":  # it has no place, or none any more
            self._close_chain(chain)
            return
        if state in ("done", "failed") and chain not in self._chains:
            return  # an earlier attempt trained it; or it never had a place
        if state == "loading":  # its workers come together, perhaps anew
            self._close_chain(chain)
        elif chain in self._chains and self._chains[chain][0] != name:
            since = self._close_chain(chain)  # the same workers go on with the next one
            self._chains[chain] = name, _Span(since, event.time)
        _, span = self._chains.setdefault(chain, (name, _Span(event.time, event.time)))
        span.last = max(span.last, event.time)
        if isinstance(event, StudentState):
            span.workers = event.workers or span.workers
        if state == "failed":
            self._close_chain(chain)

    def _close_chain(self, chain: str) -> float:
        """End what a specialist's workers are at; returns when."""
        if (held := self._chains.pop(chain, None)) is None:
            return 0.0
        name, span = held
        own = self.students.setdefault(name, {})
        own[span.workers] = own.get(span.workers, 0.0) + span.seconds
        return span.last

    def _close_stage(self) -> None:
        """End a stage, and what ends with it."""
        if self._stage is not None:
            stage, span = self._stage
            self.stages[stage] += span.seconds
            self._stage = None
        if self._evaluation is not None:
            self.scoring += self._evaluation.seconds
            self._evaluation = None

    def _close_all(self) -> None:
        """End what an attempt held, at the last word of it."""
        self._close_stage()
        for (teacher, _), span in self._replicas.items():
            self.teachers[teacher] += span.seconds
        self._replicas = {}
        for chain in list(self._chains):
            self._close_chain(chain)
