"""A run folder as its drivers leave it: a configuration, leases, and a log of events. No process is behind it."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cluster.holder import Holder
from cluster.storage import Storage, join
from orchestrator.config.loading import ConfigFile
from orchestrator.monitors.jsonl import JsonlMonitor
from orchestrator.runs.folder import RunFolder
from support.small_configuration import clinic
from workers.channels.events import (
    CaptureStarted,
    EvaluationStarted,
    Event,
    Message,
    ModelScored,
    ReplicaLoading,
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

BEGAN = 1_700_000_000.0
ELSEWHERE = Holder("far-away", "another boot", 4711, 5.0, BEGAN, "id")


def begun(uri: str, name: str = "clinic", **changes: Any) -> RunFolder:
    """A run of a storage, of which there is nothing but its configuration."""
    run = RunFolder(join(uri, name))
    run.open(ConfigFile(clinic(name=name, **changes), Path("/nowhere")))
    return run


def driven(
    storage: Storage, attempt: int = 1, *, silent_s: float = 0.0, ended: bool = False, holder: Holder = ELSEWHERE
) -> None:
    """A lease, whose holder's last beat is so old."""
    storage.write(f"attempts/{attempt:04d}.json", holder.to_bytes())
    beat(storage, attempt, 7, time.time() - silent_s)
    if ended:
        storage.write(f"attempts/{attempt:04d}.end.json", json.dumps({"time": time.time() - silent_s}).encode())


def beat(storage: Storage, attempt: int, counter: int, at: float) -> None:
    """A sign of life."""
    data = json.dumps({"counter": counter, "time": at}).encode()
    storage.write(f"attempts/{attempt:04d}.beat.json", data)


def tell(storage: Storage, attempt: int, *segments: Sequence[Event]) -> JsonlMonitor:
    """Write events, a segment for each sequence; returns who writes the next ones."""
    monitor = JsonlMonitor(storage, attempt)
    for events in segments:
        for event in events:
            monitor.take(event)
        monitor.flush(force=True)
    return monitor


def unit(number: int, at: float, seconds: float, *domains: str, split: str = "train", targets: int = 100) -> Event:
    """A unit that a replica made in so many seconds until then."""
    return UnitCommitted(
        split=split, unit=number, won=True, started=BEGAN + at - seconds, finished=BEGAN + at, time=BEGAN + at,
        rows=4, tokens=200, targets=targets, bytes=900, rejected=0, teacher="teacher", replica="r", domains=domains,
    )  # fmt: skip


def state(student: str, what: Any, at: float, **more: Any) -> Event:
    return StudentState(student=student, state=what, time=BEGAN + at, **({"budget": 1000} | more))


def stepped(student: str, at: float, tokens: int, waited: float = 0.0) -> Event:
    return StudentStep(
        student=student, step=tokens // 100, tokens=tokens, budget=1000, loss=2.0, grad_norm=1.0, lr=1e-3,
        waited=waited, seconds=[int(BEGAN + at)], time=BEGAN + at,
    )  # fmt: skip


def story(uri: str = "runs/clinic", attempt: int = 1) -> list[Event]:
    """A run in the middle of it: the teacher makes a unit of 100 targets in 10 s; medical is half done, and has waited
    4 s; legal failed. By then 60 s have passed."""
    return [
        RunStarted(run="clinic", storage=uri, attempt=attempt, time=BEGAN),
        Message(text="run clinic begins", time=BEGAN),
        StageStarted(stage="prepare", time=BEGAN + 1),
        StageStarted(stage="capture and train", time=BEGAN + 6),
        UnitsPlanned(units=8, committed=0, time=BEGAN + 6),
        CaptureStarted(teacher="teacher", units=8, repairs=0, time=BEGAN + 6),
        ReplicaLoading(teacher="teacher", replica="r", time=BEGAN + 10),
        state("medical", "queued", 10),
        state("legal", "queued", 10),
        ReplicaReady(teacher="teacher", replica="r", weights_held=[5, 6], time=BEGAN + 20),
        unit(0, 30, 10, "medical"),
        state("medical", "loading", 30, workers=2),
        state("medical", "training", 40, workers=2),
        state("legal", "loading", 32, workers=1),
        stepped("medical", 41, 100),
        unit(1, 40, 10, "legal"),
        StudentWaiting(student="medical", unit=2, waited=2.0, seconds=[], time=BEGAN + 43),
        StudentWaiting(student="medical", unit=2, waited=4.0, seconds=[], time=BEGAN + 45),
        stepped("medical", 46, 200),
        unit(2, 50, 10, "medical"),
        state("legal", "failed", 52, note="ValueError: loss is NaN\nat step 7"),
        Message(text="legal FAILED: ValueError: loss is NaN at step 7; the others continue", time=BEGAN + 52),
        stepped("medical", 60, 500),
        unit(3, 60, 10, "legal"),
    ]


def ending(outcome: Any = "done", **failures: str) -> list[Event]:
    """The rest of that run: medical is done and scored."""
    return [
        *(unit(n, 60 + 10 * (n - 3), 10, "medical" if n % 2 else "legal") for n in range(4, 8)),
        state("medical", "done", 110, tokens=1000, workers=2),
        StageStarted(stage="evaluate", time=BEGAN + 111),
        EvaluationStarted(units=2, scored=0, time=BEGAN + 111),
        ModelScored(model="medical", domain="medical", done=1, units=2, time=BEGAN + 115),
        ModelScored(model="medical", domain="medical", done=2, units=2, time=BEGAN + 121),
        StageStarted(stage="export", time=BEGAN + 125),
        RunEnded(outcome=outcome, failures=failures, time=BEGAN + 130),
    ]
