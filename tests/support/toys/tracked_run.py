"""A run's log, as attempts at a run would have left it."""

from __future__ import annotations

from pathlib import Path

from cluster.storage import LocalStorage
from orchestrator.monitors.jsonl import JsonlMonitor
from workers.channels.events import (
    CaptureStarted,
    Event,
    FirstKlMeasured,
    ReplicaReady,
    StageStarted,
    StudentScored,
    StudentStep,
    UnitCommitted,
)


def told_step(student: str, step: int, time: float, loss: float = 2.0, waited: float = 0.5) -> StudentStep:
    """A step of ten tokens, of a budget of 1,000."""
    return StudentStep(
        student=student,
        step=step,
        tokens=10 * step,
        budget=1000,
        loss=loss,
        grad_norm=1.0,
        lr=1e-3,
        waited=waited,
        seconds=[],
        time=time,
    )


def told_unit(unit: int, time: float, teacher: str = "teacher", *, won: bool = True) -> UnitCommitted:
    """A unit of five target tokens."""
    counts = {"rows": 1, "tokens": 9, "targets": 5, "bytes": 99, "rejected": 0}
    return UnitCommitted(
        split="train", unit=unit, won=won, started=time - 1, finished=time, teacher=teacher, time=time, **counts
    )


def scored(student: str, kl: float = 0.25, time: float = 900.0) -> StudentScored:
    """Scores of the end."""
    return StudentScored(
        student=student, kl=kl, kl_low=0.2, kl_high=0.3, initial_kl=2.5, passed=True, retention=0.9,
        verdict=f"{student} is near.", time=time,
    )  # fmt: skip


def whole_run() -> list[list[Event]]:
    """Two attempts: the second goes on at step 4, the last checkpoint of the first."""
    first: list[Event] = [
        CaptureStarted(teacher="teacher", units=3, repairs=0, time=100.0),
        ReplicaReady(teacher="teacher", weights_held=[1], replica="x", time=101.0),
        *(told_unit(i, 110.0 + i) for i in range(3)),
        FirstKlMeasured(student="medical", kl=1.5, tokens=10, time=200.0),
        *(told_step("medical", i, 200.0 + 2 * i) for i in range(1, 7)),
        *(told_step("legal", i, 200.0 + 2 * i, loss=3.0) for i in range(1, 4)),
    ]
    second: list[Event] = [
        *(told_step("medical", i, 300.0 + 2 * i) for i in range(5, 9)),
        *(told_step("legal", i, 300.0 + 2 * i, loss=3.0) for i in range(2, 6)),
        StageStarted(stage="evaluate", time=890.0),
        scored("medical"),
        scored("legal", 0.5),
    ]
    return [first, second]


def write_log(storage: LocalStorage, attempt: int, events: list[Event], a_segment: int = 4) -> None:
    """The log of an attempt, so many events a segment."""
    log = JsonlMonitor(storage, attempt)
    for start in range(0, len(events), a_segment):
        for event in events[start : start + a_segment]:
            log.take(event)
        log.flush(force=True)


def logged_run(folder: Path) -> LocalStorage:
    """The log of the whole run."""
    storage = LocalStorage(folder)
    for attempt, events in enumerate(whole_run(), 1):
        write_log(storage, attempt, events)
    return storage
