"""Events as segments that are written once, read back as they were, and never in the way of a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import get_args

import pytest

from cluster.storage import LocalStorage
from orchestrator.monitors.base import Monitors
from orchestrator.monitors.jsonl import JsonlMonitor
from orchestrator.runs.events import read_events
from workers.channels.events import (
    SCHEMA_VERSION,
    CaptureStarted,
    CheckpointSaved,
    EvaluationStarted,
    Event,
    FirstKlMeasured,
    Message,
    ModelScored,
    NodeJoined,
    NodeLeft,
    PlaceEnded,
    PlaceWanted,
    ReplicaAtWork,
    ReplicaLoading,
    ReplicaReady,
    RunEnded,
    RunStarted,
    StageStarted,
    StudentScored,
    StudentState,
    StudentStep,
    StudentWaiting,
    UnitCommitted,
    UnitDamaged,
    UnitsPlanned,
    from_lines,
    to_lines,
)

ALL: list[Event] = [
    Message(text="a line\nof two, ünd \u2028", student="medical"),
    RunStarted(run="r", storage="s3://bucket/r", attempt=2),
    RunEnded(outcome="failed", cause="no place", failures={"legal": "loss is NaN"}),
    StageStarted(stage="capture and train"),
    NodeJoined(node="ab", role="teacher", joined=1.5, labels={"stillhouse-role": "teacher"}, resources={"CPU": 1.0}),
    NodeLeft(node="ab", left=2.5, reason="idle"),
    PlaceWanted(place="x", teacher="t", processes=2, resources={"GPU": 1.0}, labels={"zone": "a"}),
    PlaceEnded(place="x", teacher="t", found=True),
    UnitsPlanned(units=9, committed=6),
    CaptureStarted(teacher="t", units=3, repairs=1),
    ReplicaLoading(teacher="t", replica="x"),
    ReplicaReady(teacher="t", weights_held=[3, 4], replica="x"),
    ReplicaAtWork(teacher="t", replica="x", texts=3, slots=4),
    UnitCommitted(
        split="train", unit=3, won=True, started=1.5, finished=2.5, rows=1, tokens=9, targets=5, bytes=99, rejected=1
    ),
    UnitDamaged(student="medical", unit=3, reason="gone"),
    StudentState(student="medical", state="loading"),
    StudentStep(student="m", step=1, tokens=2, budget=3, loss=0.1, grad_norm=1.0, lr=1e-5, waited=0.0, seconds=[1, 2]),
    FirstKlMeasured(student="m", kl=0.5, tokens=9),
    StudentWaiting(student="m", unit=4, waited=0.5, seconds=[]),
    CheckpointSaved(student="m", step=1, tokens=2, loss=0.1),
    EvaluationStarted(units=5, scored=2),
    ModelScored(model="m", domain="legal"),
    StudentScored(student="m", kl=0.1, kl_low=0.05, kl_high=0.2, verdict="m is near."),
]


def test_every_kind_of_event_comes_back_as_it_was() -> None:
    assert {type(event) for event in ALL} == set(get_args(Event))
    assert list(from_lines(to_lines(ALL))) == ALL
    assert len({event.kind for event in ALL}) == len(ALL)


@pytest.mark.parametrize(
    "line",
    [
        b'{"kind": "message", "time": 1.0}',
        b'{"kind": "message", "time": 1.0, "text": "x", "more": 1}',
        b'{"kind": "gossip", "time": 1.0}',
        b"{",
    ],
)
def test_what_is_no_event_is_refused(line: bytes) -> None:
    with pytest.raises(ValueError):
        list(from_lines(line))


def test_segments_are_written_once_and_read_in_order(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    for attempt in (1, 2):
        monitor = JsonlMonitor(storage, attempt)
        for i in range(3):
            monitor.take(Message(text=f"{attempt}.{i}"))
            before = {f.key: (f.modified, f.bytes) for f in storage.listing("events")}
            monitor.flush(force=True)
            after = {f.key: (f.modified, f.bytes) for f in storage.listing("events")}
            assert len(after) == len(before) + 1 and before.items() <= after.items()
        monitor.stop()
    found = [event.text for event in read_events(storage) if isinstance(event, Message)]
    assert found == [f"{a}.{i}" for a in (1, 2) for i in range(3)]
    first = storage.read(storage.listing("events")[0].key).splitlines()[0]
    assert json.loads(first) == {"schema": SCHEMA_VERSION, "attempt": 1, "segment": 0}


def test_nothing_is_written_where_nothing_happened(tmp_path: Path) -> None:
    monitor = JsonlMonitor(LocalStorage(tmp_path), 1)
    monitor.flush(force=True)
    monitor.stop()
    assert list(tmp_path.rglob("*")) == []


def test_many_events_are_not_held(tmp_path: Path) -> None:
    monitor, storage = JsonlMonitor(LocalStorage(tmp_path), 1), LocalStorage(tmp_path)
    for i in range(25_000):
        monitor.take(Message(text=str(i)))
    assert len(storage.listing("events")) == 2
    monitor.stop()
    assert sum(1 for _ in read_events(storage)) == 25_000


@pytest.mark.parametrize("bad", [b"", b"{}\n", b'{"schema": 99}\n', b'{"schema": 1}\n{"kind": "mess', b"\xff\n"])
def test_a_segment_that_cannot_be_read_is_passed_over_by_name(bad: bytes, tmp_path: Path) -> None:
    storage, skipped = LocalStorage(tmp_path), []
    monitor = JsonlMonitor(storage, 2)
    monitor.take(Message(text="fine"))
    monitor.stop()
    storage.write("events/0001/000000.jsonl", bad)
    found = [event.text for event in read_events(storage, skipped.append) if isinstance(event, Message)]
    assert found == ["fine"]
    assert len(skipped) == 1 and skipped[0].startswith("events/0001/000000.jsonl: ")


class Failing:
    """A monitor whose storage is full."""

    stopped = 0

    def start(self) -> None: ...

    def take(self, event: Event) -> None:
        raise OSError("no space left")

    def flush(self, *, force: bool = False) -> None: ...

    def stop(self) -> None:
        self.stopped += 1
        raise OSError("still no space left")


class Keeping:
    """A monitor that keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[Event] = []

    def start(self) -> None: ...

    def take(self, event: Event) -> None:
        self.told.append(event)

    def flush(self, *, force: bool = False) -> None: ...

    def stop(self) -> None: ...


def test_a_monitor_that_fails_is_left_out_and_said_so() -> None:
    failing, keeping = Failing(), Keeping()
    with Monitors([failing, keeping]) as monitors:
        monitors.take(Message(text="one"))
        monitors.take(Message(text="two"))
    texts = [event.text for event in keeping.told if isinstance(event, Message)]
    assert [t for t in texts if t in ("one", "two")] == ["one", "two"]
    assert any("no space left" in t for t in texts) and monitors.failures and failing.stopped == 1


def test_storage_that_fails_at_the_end_hides_no_error_of_the_run(tmp_path: Path) -> None:
    class Full(LocalStorage):
        def write(self, key: str, data: bytes) -> None:
            raise OSError("disk full")

    monitors = Monitors([JsonlMonitor(Full(tmp_path), 1)])
    with pytest.raises(KeyError), monitors:
        monitors.take(Message(text="not kept"))
        raise KeyError
    assert any("disk full" in failure for failure in monitors.failures)
