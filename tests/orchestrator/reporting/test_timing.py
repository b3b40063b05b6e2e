"""Seconds in which teacher and students worked, from events made by hand."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest

from cluster.storage import LocalStorage
from orchestrator.monitors.jsonl import JsonlMonitor
from orchestrator.reporting.timing import Spans, timing, timing_of
from workers.channels.events import Event, Message, StudentStep, StudentWaiting, UnitCommitted

NUMBERS = dict.fromkeys(("unit", "rows", "tokens", "targets", "bytes", "rejected"), 0)


def unit(started: float, finished: float, won: bool = True) -> UnitCommitted:
    return UnitCommitted(split="train", won=won, started=started, finished=finished, **NUMBERS)


def steps(student: str, *seconds: int) -> StudentStep:
    numbers = dict.fromkeys(("step", "tokens", "budget"), 1) | dict.fromkeys(("loss", "grad_norm", "lr", "waited"), 1.0)
    return StudentStep(student=student, seconds=list(seconds), **numbers)


def test_nothing_happened() -> None:
    nothing = {"teacher_s": 0.0, "students_s": 0.0, "wall_s": 3.14, "overlap_s": 0.0, "spans": {}}
    assert asdict(timing([], 3.14159)) == nothing


def test_spans_are_told_from_the_first_one_without_the_breaks_that_no_picture_shows() -> None:
    events = [unit(100, 400), unit(400.5, 1100), unit(1500, 1900), steps("a", 300, 301, 900), unit(0, 50, won=False)]
    assert timing(events, 0).spans == {"teacher": ((0, 1000), (1400, 1800)), "a": ((200, 202), (800, 801))}


@pytest.mark.parametrize(
    ("spans", "seconds"),
    [
        ([(0, 4)], 4),
        ([(0, 4), (6, 8)], 6),
        ([(0, 4), (2, 6)], 6),
        ([(0, 10), (2, 4)], 10),
        ([(0, 10), (2, 4), (9, 12), (12, 13)], 13),
        ([(5, 6), (0, 1)], 2),
        ([(3, 3)], 0),
    ],
)
def test_the_teachers_time_is_the_union_of_its_units(spans: list[tuple[float, float]], seconds: float) -> None:
    assert timing([unit(*s) for s in spans], 0).teacher_s == seconds


def test_a_unit_that_was_there_already_is_no_work() -> None:
    assert timing([unit(0, 10, won=False), steps("a", 1), steps("b", 1)], 0).overlap_s == 0
    assert timing([unit(0, 10, won=False)], 0).teacher_s == 0


def test_the_students_time_counts_each_second_once() -> None:
    assert timing([steps("a", 1, 2, 3), steps("b", 3, 4), steps("a", 3)], 0).students_s == 4


def test_overlap_wants_the_teacher_and_two_students() -> None:
    events = [
        unit(100.2, 103.9),  # seconds 100 to 103
        steps("a", 100, 101, 102, 103, 104, 105),
        steps("b", 102, 103, 104),
        steps("a", 102),
    ]
    assert timing(events, 0).overlap_s == 2


def test_one_student_twice_is_one_student() -> None:
    assert timing([unit(0, 10), steps("a", 3), steps("a", 3)], 0).overlap_s == 0


def test_overlapping_units_count_a_second_once() -> None:
    assert timing([unit(0, 5), unit(0, 5), steps("a", 2), steps("b", 2)], 0).overlap_s == 1


def test_the_order_of_events_means_nothing() -> None:
    events = [unit(0, 3), unit(2, 9), steps("a", 1, 8), steps("b", 8), steps("c", 1)]
    assert timing(events, 9) == timing(reversed(events), 9)
    assert timing(events, 9).overlap_s == 2


def test_other_events_are_passed_over() -> None:
    assert timing([Message(text="hello")], 0) == timing([], 0)


def test_seconds_before_a_wait_count_as_those_before_a_step() -> None:
    waiting = StudentWaiting(student="a", unit=3, waited=1.0, seconds=[4, 5])
    assert timing([waiting, steps("a", 5, 6)], 0).students_s == 3


def test_spans_are_joined_as_they_come_and_stay_few() -> None:
    spans = Spans()
    for second in range(50_000):
        spans.add(second, second + 1)
    assert len(spans.held) <= 10_000 and spans.seconds == 50_000


def test_timing_adds_up_over_the_attempts_at_a_run(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    for attempt, started in ((1, 100.0), (2, 200.0)):
        keep(storage, attempt, [unit(started, started + 10), steps("a", int(started)), steps("b", int(started))])
        storage.write(f"events/{attempt:04d}/wall.json", b'{"started": 0, "wall_s": 30.0}')
    found = asdict(timing_of(storage))
    assert found.pop("spans").keys() == {"teacher", "a", "b"}
    assert found == {"teacher_s": 20.0, "students_s": 2.0, "wall_s": 60.0, "overlap_s": 2.0}


def test_a_wall_that_cannot_be_read_is_passed_over(tmp_path: Path) -> None:
    storage, skipped = LocalStorage(tmp_path), []
    storage.write("events/0001/wall.json", b"{")
    storage.write("events/0002/wall.json", b'{"wall_s": 4}')
    assert timing_of(storage, skipped.append).wall_s == 4 and len(skipped) == 1


def keep(storage: LocalStorage, attempt: int, events: list[Event]) -> None:
    monitor = JsonlMonitor(storage, attempt)
    for event in events:
        monitor.take(event)
    monitor.stop()
