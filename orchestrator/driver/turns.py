"""Whose turn it is among the students that have no place yet."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from orchestrator.config.students import Student
from orchestrator.runs.context import RunContext
from orchestrator.stages.training.expectation import Paces, Reader, Supply, waiting_share
from orchestrator.stages.training.queue import admitted, by_priority
from workers.channels.events import Event, StudentState, StudentStep, StudentWaiting, UnitCommitted
from workers.channels.messages import UnitCaptured
from workers.layout import StudentLayout
from workers.manifest import read_plan
from workers.splits import TRAIN
from workers.targets.store import TargetStore
from workers.units import Unit


@dataclass
class Turns:
    """Groups of students in the order of their priority, and what is expected of the targets that they read.

    A monitor too: rates are measured from events. Those may be lost, so nobody waits for one for ever: when the capture
    is over, everybody's turn has come.
    """

    ctx: RunContext
    queue: list[list[Student]]
    stepping: set[str] = field(default_factory=set)
    """Students that train and wait for nothing, as far as is known."""
    told: dict[str, float] = field(default_factory=dict)
    """What was said last of each student that is expected to wait."""
    _paces: Paces = field(default_factory=Paces)
    _supplies: dict[str, Supply] = field(default_factory=dict)
    _units: tuple[Unit, ...] = ()
    _captured: set[int] = field(default_factory=set)
    _scout: str = ""
    """The student that has its place so that a rate can be measured."""

    def __post_init__(self) -> None:
        self.queue = by_priority(self.queue, lambda group: group[0].config.priority)
        if any(self._wait(group[0]) < 1 for group in self.queue):
            self._read_plan()

    def next(self, at_work: int, looking: int, *, captured: bool) -> list[list[Student]]:
        """Take out of the queue the groups whose turn has come. `captured`: no teacher is at work any more."""
        found = admitted(
            self.queue,
            self.ctx.config.fan_out,
            at_work=at_work,
            looking=looking,
            ready=lambda group: captured or self._ready(group[0]),
        )
        for group in found:
            self.queue.remove(group)
        return found

    def start(self) -> None:
        """As a monitor; nothing to do."""

    def take(self, event: Event) -> None:
        """Measure rates."""
        match event:
            case StudentState(student=student, state="training"):
                self.stepping.add(student)
            case StudentState(student=student) | StudentWaiting(student=student):
                self.stepping.discard(student)
            case StudentStep(student=student, tokens=tokens, seconds=seconds):
                self.stepping.add(student)
                self._paces.note(student, tokens, seconds)
            case UnitCommitted(split="train", unit=unit, targets=targets) if unit < len(self._units):
                for domain in self._units[unit].domains:
                    units, before = self._supplies[domain].told
                    self._supplies[domain].told = units + 1, before + targets

    def flush(self, *, force: bool = False) -> None:
        """As a monitor; nothing to do."""

    def stop(self) -> None:
        """As a monitor; nothing to do."""

    def note(self, message: UnitCaptured) -> None:
        """A unit is captured."""
        if message.split == TRAIN and message.unit < len(self._units) and message.unit not in self._captured:
            self._captured.add(message.unit)
            for domain in self._units[message.unit].domains:
                self._supplies[domain].commit(time.monotonic())

    def _wait(self, student: Student) -> float:
        return self.ctx.config.fan_out.wait_of(student.config.train.gpus_per_worker)

    def _read_plan(self) -> None:
        storage = self.ctx.run.storage
        self._units = read_plan(storage, TRAIN).units
        self._captured = TargetStore(storage, TRAIN).log.committed()
        for unit in self._units:
            for domain in unit.domains:
                own = self._supplies.setdefault(domain, Supply(0, 0.0))
                own.units, own.most = own.units + 1, own.most + unit.tokens
                own.committed += unit.index in self._captured

    def _ready(self, student: Student) -> bool:
        """Whether a student is expected to wait no longer than it may. Where no rate is known, one student of all takes
        its place with its first unit, to be measured."""
        if (may := self._wait(student)) >= 1:
            return True
        found = self._expected(student)
        if found is None:
            begun = all(self._supply(d).committed for d, share in student.mix.items() if share > 0)
            if begun and not self._scout:
                self._scout = student.name
            return self._scout == student.name
        if found > may and abs(found - self.told.get(student.name, 2.0)) >= 0.1:
            self.told[student.name] = found
            self.ctx.say(
                f"{student.name} takes its place later: now it would wait for targets {found:.0%} of its time "
                f"(fan_out.wait: {may:.0%}); more replicas of the teacher make targets faster"
            )
        return found <= may

    def _expected(self, student: Student) -> float | None:
        if student.name not in self._paces.parameters:
            made = self.ctx.run.read_json(StudentLayout(student.name).initial_facts) or {}
            self._paces.parameters[student.name] = int(made.get("parameters", 0))
        rate = self._paces.of(student.name)
        if rate is None:
            return None
        budget = student.end_tokens or student.config.train.tokens
        return waiting_share(Reader(student.mix, budget), rate, self._supply, time.monotonic())

    def _supply(self, domain: str) -> Supply:
        return self._supplies.get(domain, Supply(0, 0.0))
