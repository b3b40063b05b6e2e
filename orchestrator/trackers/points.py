"""From a run's events to points of curves. Pure, and with the events' own times, so that a log gives what the run gave.

A meter goes over the events of all attempts in order. What it has told of a student is never told again: a training
that goes on at a checkpoint repeats the steps behind it, to the same weights, and these are passed over.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from orchestrator.monitors.progress import Pool
from orchestrator.monitors.rates import Rate
from orchestrator.trackers.metrics import (
    FIRST_KL,
    GRAD_NORM,
    INITIAL_KL,
    KL,
    KL_HIGH,
    KL_LOW,
    LOSS,
    LR,
    PASSED,
    REPLICAS,
    RETENTION,
    TARGETS,
    TARGETS_PER_S,
    TOKENS,
    TOKENS_PER_S,
    UNITS,
    WAITED,
    Metric,
)
from workers.channels.events import (
    CaptureStarted,
    Event,
    FirstKlMeasured,
    ReplicaAtWork,
    ReplicaReady,
    StageStarted,
    StudentScored,
    StudentStep,
    StudentWaiting,
    UnitCommitted,
)


@dataclass(frozen=True)
class Point:
    """Some numbers of a student at a step of its training, or of a teacher after so many units."""

    step: int
    time: float
    """Seconds since 1970."""
    values: Mapping[Metric, float]
    student: str = ""
    teacher: str = ""
    final: bool = False
    """Whether these are what came out in the end, rather than a place on a curve."""
    verdict: str = ""
    """Of final ones: what the student is worth, in sentences."""
    passing: bool = False
    """Whether this is of a moment, for who looks on now; it belongs to no step."""

    def named(self) -> dict[str, float]:
        """The numbers by their names in trackers."""
        above = re.sub(r"[^\w.\- ]", "_", self.teacher) + "/" if self.teacher else ""
        return {f"{above}{metric.key}": value for metric, value in self.values.items()}


@dataclass
class _Student:
    """What is told of a student by now."""

    step: int = -1
    time: float = 0.0
    waited: float = 0.0
    scores: list[float | None] = field(default_factory=list)


@dataclass
class _Teacher:
    """What is told of a teacher by now."""

    units: int = 0
    targets: int = 0
    time: float = 0.0
    at_work: bool = False


class Meter:
    """Makes points of events. `every_s`: seconds between two points of a student, or a teacher, at least.

    `state` is that of an earlier meter, which this one goes on from; what is still to come of rates is not in it.
    """

    def __init__(self, every_s: float, state: Mapping[str, Any] | None = None) -> None:
        self._every_s, state = every_s, state or {}
        self._students = {name: _Student(**told) for name, told in state.get("students", {}).items()}
        self._teachers = {name: _Teacher(**told) for name, told in state.get("teachers", {}).items()}
        self._rates: dict[tuple[str, str], Rate] = {}
        self._pools: dict[str, Pool] = {}
        self._left: dict[str, int] = {}
        """Units of a teacher's present pass that are still to come."""

    @property
    def state(self) -> dict[str, Any]:
        """What a later meter goes on from, as JSON values."""
        return {
            "students": {name: asdict(told) for name, told in self._students.items()},
            "teachers": {name: asdict(told) for name, told in self._teachers.items()},
        }

    def take(self, event: Event) -> Iterator[Point]:
        """The points that an event brings, if any."""
        match event:
            case StudentStep():
                yield from self._step(event)
            case StudentWaiting(student=student, time=time, waited=waited):
                told = self._student(student)
                values = {WAITED: told.waited + waited}
                yield Point(max(told.step, 0), time, values, student=student, passing=True)
            case FirstKlMeasured(student=student, time=time, kl=kl):
                if (told := self._student(student)).step < 0:
                    told.step = 0
                    yield Point(0, time, {FIRST_KL: kl}, student=student)
            case StudentScored():
                yield from self._scored(event)
            case CaptureStarted(teacher=teacher, units=units):
                self._left[teacher] = self._left.get(teacher, 0) + units
            case ReplicaReady(teacher=teacher, replica=replica) | ReplicaAtWork(teacher=teacher, replica=replica):
                self._pools.setdefault(teacher, Pool()).hear(replica, event.time)
                self._teacher(teacher).at_work = True
            case UnitCommitted():
                yield from self._unit(event)
            case StageStarted(stage="evaluate" | "export", time=time):
                self._pools.clear()
                for name, pool in self._teachers.items():
                    if pool.at_work:
                        pool.at_work = False
                        yield Point(pool.units, time, {REPLICAS: 0}, teacher=name, final=True)

    def _student(self, name: str) -> _Student:
        return self._students.setdefault(name, _Student())

    def _teacher(self, name: str) -> _Teacher:
        return self._teachers.setdefault(name, _Teacher())

    def _rate(self, kind: str, name: str, time: float, count: int) -> float | None:
        """How fast a count grows, with one moment more."""
        rate = self._rates.setdefault((kind, name), Rate())
        rate.add(time, count)
        return rate.per_second

    def _step(self, event: StudentStep) -> Iterator[Point]:
        told = self._student(event.student)
        told.waited = told.waited + event.waited if event.waited_s is None else event.waited_s
        rate = self._rate("student", event.student, event.time, event.tokens)
        soon = 0 <= event.time - told.time < self._every_s and event.tokens < event.budget
        if event.step <= told.step or soon:
            return
        told.step, told.time = event.step, event.time
        values = {LOSS: event.loss, GRAD_NORM: event.grad_norm, LR: event.lr, TOKENS: float(event.tokens)}
        values |= {WAITED: told.waited} | ({TOKENS_PER_S: rate} if rate is not None else {})
        yield Point(event.step, event.time, values, student=event.student)

    def _scored(self, event: StudentScored) -> Iterator[Point]:
        told = self._student(event.student)
        passed = None if event.passed is None else float(event.passed)
        found = {KL: event.kl, KL_LOW: event.kl_low, KL_HIGH: event.kl_high, INITIAL_KL: event.initial_kl}
        found |= {RETENTION: event.retention, PASSED: passed}
        if (scores := list(found.values())) == told.scores:
            return  # the report was written anew
        told.scores = scores
        values = {metric: value for metric, value in found.items() if value is not None}
        step = max(told.step, 0)
        yield Point(step, event.time, values, student=event.student, final=True, verdict=event.verdict)

    def _unit(self, event: UnitCommitted) -> Iterator[Point]:
        if not event.won:
            return
        name = event.teacher or "teacher"
        told = self._teacher(name)
        told.units, told.targets = told.units + (event.revision == 0), told.targets + event.targets
        left = self._left[name] = self._left.get(name, 0) - 1
        rate = self._rate("teacher", name, event.time, told.targets)
        if 0 <= event.time - told.time < self._every_s and left:
            return
        told.time = event.time
        values: dict[Metric, float] = {UNITS: told.units, TARGETS: told.targets}
        if (pool := self._pools.get(name)) is not None:
            values[REPLICAS] = len(pool.heard)
        yield Point(told.units, event.time, values | ({TARGETS_PER_S: rate} if rate is not None else {}), teacher=name)
