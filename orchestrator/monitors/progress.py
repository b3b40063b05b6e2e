"""How far a run is, from its events alone: one part for its teachers, for each student, and for the evaluation.

Pure, and with the events' own times: it can be made of a log as well as of a run at work.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from orchestrator.monitors.members import Members
from orchestrator.monitors.rates import Curve, Rate, Waits
from workers.channels.events import (
    CaptureStarted,
    CheckpointSaved,
    EvaluationStarted,
    Event,
    ModelScored,
    NodeJoined,
    NodeLeft,
    PlaceEnded,
    PlaceWanted,
    ReplicaAtWork,
    ReplicaReady,
    RunEnded,
    RunStarted,
    StageStarted,
    StudentState,
    StudentStep,
    StudentWaiting,
    UnitCommitted,
    UnitsPlanned,
)

State = Literal["queued", "loading", "waiting", "working", "done", "failed"]

_GONE_S = 150.0
"""Seconds without a word of a replica, after which it counts as gone. It tells its slots once a minute."""


@dataclass
class Part:
    """One part of a run."""

    name: str
    counts: Literal["units", "tokens", "scores"]
    """What `done` and `total` count: a teacher's units, a student's target tokens, an evaluation's scores of a model on
    a unit."""
    state: State = "queued"
    done: int = 0
    total: int = 0
    since: float = 0.0
    """When it came to this state."""
    note: str = ""
    """What it waits for, or what it failed of."""
    pace: Rate = field(default_factory=Rate)
    """Of `done`."""
    targets: Rate = field(default_factory=Rate)
    """Of target tokens, where `done` counts units."""
    waits: Waits = field(default_factory=Waits)
    """Of a student, for units."""
    free_pace: Rate = field(default_factory=Rate)
    """Of a student's `done`, a second in which it does not wait."""
    losses: Curve = field(default_factory=Curve)
    loss: float | None = None

    @property
    def share(self) -> float:
        """What is done of the whole, 0 to 1."""
        if self.state == "done":
            return 1.0
        return min(self.done / self.total, 1.0) if self.total else 0.0

    @property
    def left_s(self) -> float | None:
        """Seconds that it takes still, at its present pace; None where it stands."""
        pace = self.pace.per_second
        if self.state != "working" or not pace or not self.total:
            return None
        return max(self.total - self.done, 0) / pace

    @property
    def tokens(self) -> Rate:
        """The rate of target tokens; of no use in an evaluation."""
        return self.targets if self.counts == "units" else self.pace

    def enter(self, state: State, time: float, note: str = "") -> None:
        """Come to a state, or stay in it with another note."""
        if state != self.state:
            self.state, self.since = state, time
        self.note = note

    def reach(self, time: float, done: int) -> None:
        """So much is done by then."""
        self.done = done
        self.pace.add(time, done)


@dataclass
class TeacherCounts:
    """One of several teachers, of which the part counts them all together."""

    planned: int = 0
    """Units of its passes."""
    units: int = 0
    tokens: int = 0
    """Target tokens of these, in all attempts."""
    replicas: set[str] = field(default_factory=set)
    rate: Rate = field(default_factory=Rate)
    """Of target tokens."""


@dataclass
class Pool:
    """The teachers' replicas, and what became of their texts."""

    targets: int = 0
    bytes: int = 0
    """Of the train store."""
    train_targets: int = 0
    rejected: int = 0
    """Answers that were not kept."""
    heard: dict[str, float] = field(default_factory=dict)
    slots: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Texts in slots and slots, by replica."""
    teachers: dict[str, TeacherCounts] = field(default_factory=dict)

    def of(self, teacher: str) -> TeacherCounts:
        """One teacher's; whose it is, logs of earlier versions do not say, and it is the last one's then."""
        return self.teachers.setdefault(teacher or next(reversed(self.teachers), "teacher"), TeacherCounts())

    def hear(self, replica: str, time: float) -> None:
        """A replica lives; those that were silent for long do not."""
        self.heard[replica] = time
        for gone in [r for r, last in self.heard.items() if last < time - _GONE_S]:
            self._forget(gone)

    def forget_all(self) -> None:
        """No replica lives: another attempt begins."""
        for replica in list(self.heard):
            self._forget(replica)

    def _forget(self, replica: str) -> None:
        del self.heard[replica]
        self.slots.pop(replica, None)
        for counts in self.teachers.values():
            counts.replicas.discard(replica)

    @property
    def in_slots(self) -> tuple[int, int]:
        """Texts in slots and slots of all replicas that told theirs."""
        return sum(t for t, _ in self.slots.values()), sum(s for _, s in self.slots.values())


class Progress:
    """What is known of a run by now."""

    def __init__(self) -> None:
        self.run, self.storage, self.attempt, self.stage = "", "", 0, ""
        self.began: float | None = None
        """When the first event was told."""
        self.teacher, self.evaluation = Part("teacher", "units"), Part("evaluate", "scores")
        self.students: dict[str, Part] = {}
        self.pool, self.members = Pool(), Members()
        self.ended: RunEnded | None = None
        """How the attempt ended, if it told."""

    @property
    def parts(self) -> list[Part]:
        """Those of which anything was told, in the order of the data."""
        known = [self.teacher, *self.students.values(), self.evaluation]
        return [part for part in known if part.total or part.since]

    @property
    def failures(self) -> dict[str, str]:
        """Students and exports that failed, each with its cause."""
        found = {name: part.note for name, part in self.students.items() if part.state == "failed"}
        return found | (self.ended.failures if self.ended is not None else {})

    def take(self, event: Event) -> Part | None:
        """Take an event in; returns the part that it is about."""
        if self.began is None:
            self.began = event.time
        match event:
            case RunStarted(run=run, storage=storage, attempt=attempt):
                self.run, self.storage, self.attempt = run, storage, attempt
                self._begin_again(event.time)
            case RunEnded():
                self.ended = event
                self.members.forget_all()
            case NodeJoined() | NodeLeft() | PlaceWanted() | PlaceEnded():
                self.members.take(event)
            case StageStarted(stage=stage):
                self.stage = stage
                if stage == "export" and self.evaluation.total:  # its last words may come late, or never
                    self.evaluation.enter("done", event.time)
            case UnitsPlanned() | CaptureStarted() | ReplicaReady() | ReplicaAtWork() | UnitCommitted():
                return self._teacher(event)
            case StudentState() | StudentStep() | StudentWaiting() | CheckpointSaved():
                return self._student(event)
            case EvaluationStarted() | ModelScored():
                return self._evaluation(event)
        return None

    def _begin_again(self, time: float) -> None:
        """What an earlier attempt was at has no place any more; what it had done stays."""
        self.began, self.ended = time, None
        self.pool.forget_all()
        self.members.forget_all()
        for part in (self.teacher, *self.students.values(), self.evaluation):
            part.waits.rest()
            part.pace, part.targets, part.free_pace = Rate(), Rate(), Rate()
            if part.state != "done":
                part.enter("queued", time)
        for counts in self.pool.teachers.values():
            counts.planned, counts.rate = 0, Rate()
        if self.evaluation.state != "done":
            self.evaluation.total, self.evaluation.since = 0, 0.0
        if not self.teacher.total:
            self.teacher.since = 0.0

    def _teacher(self, event: UnitsPlanned | CaptureStarted | ReplicaReady | ReplicaAtWork | UnitCommitted) -> Part:
        part, pool = self.teacher, self.pool
        match event:
            case UnitsPlanned(committed=committed):
                part.done = part.total = committed
            case CaptureStarted(teacher=teacher, units=units, again=again):
                part.total += 0 if again else units
                pool.of(teacher).planned += 0 if again else units
                if part.state in ("queued", "done"):
                    part.enter("loading", event.time)
            case ReplicaReady(teacher=teacher, replica=replica):
                pool.hear(replica, event.time)
                pool.of(teacher).replicas.add(replica)
                pool.of(teacher).rate.add(event.time, pool.of(teacher).tokens)
                part.enter("working", event.time)
                part.pace.add(event.time, part.done)
                part.targets.add(event.time, pool.targets)
            case ReplicaAtWork(teacher=teacher, replica=replica, texts=texts, slots=slots):
                pool.hear(replica, event.time)
                pool.of(teacher).replicas.add(replica)
                pool.slots[replica] = texts, slots
            case UnitCommitted():
                pool.targets += event.targets
                pool.rejected += event.rejected
                if event.split == "train":
                    pool.bytes, pool.train_targets = pool.bytes + event.bytes, pool.train_targets + event.targets
                part.reach(event.time, part.done + 1)
                part.targets.add(event.time, pool.targets)
                own = pool.of(event.teacher)
                own.units, own.tokens = own.units + event.won, own.tokens + event.won * event.targets
                own.rate.add(event.time, own.tokens)
        if part.total and part.done >= part.total:
            part.enter("done", event.time)
            pool.slots.clear()
        return part

    def _student(self, event: StudentState | StudentStep | StudentWaiting | CheckpointSaved) -> Part:
        part = self.students.setdefault(event.student, Part(event.student, "tokens", since=event.time))
        match event:
            case StudentState(state="queued" | "loading" | "failed" as state, note=note, budget=budget):
                part.enter(state, event.time, note)
                part.total = budget or part.total
                part.waits.rest()
            case StudentState(state=state, tokens=tokens, budget=budget):
                part.enter("done" if state == "done" else "working", event.time)
                part.total = budget
                part.reach(event.time, tokens)
                part.waits.work(event.time)
                if state == "done":
                    part.waits.rest()
            case StudentStep(tokens=tokens, budget=budget, loss=loss):
                part.waits.work(event.time, event.waited, event.waited_s)
                part.enter("working", event.time)
                part.total, part.loss = budget, loss
                part.losses.add(loss)
                part.reach(event.time, tokens)
                part.free_pace.add(event.time - part.waits.seconds, tokens)
            case StudentWaiting(unit=unit, waited=waited, damage=damage):
                why = f"unit {unit} is recomputed: {damage}" if damage else f"unit {unit}"
                part.enter("waiting", event.time, f"{why}, {waited:.0f} s")
                part.waits.wait(event.time, waited)
            case CheckpointSaved(tokens=tokens):
                part.reach(event.time, max(tokens, part.done))
        return part

    def _evaluation(self, event: EvaluationStarted | ModelScored) -> Part:
        part = self.evaluation
        match event:
            case EvaluationStarted(units=units, scored=scored):
                part.total = units
                part.reach(event.time, scored)
                part.enter("loading" if scored < units else "done", event.time)
            case ModelScored(model=model, domain=domain, done=done):
                what = f"{model} on {domain}" if domain else model
                part.enter("working" if done else "loading", event.time, what)
                if done:
                    part.reach(event.time, part.done + 1)
                    if part.done >= part.total > 0:
                        part.enter("done", event.time)
        return part
