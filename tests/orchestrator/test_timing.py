"""Seconds in which teacher and students worked, from events made by hand."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.timing import timing


def unit(started: float, finished: float, taught: bool = True) -> dict[str, Any]:
    return {"kind": "unit", "taught": taught, "started": started, "finished": finished}


def steps(student: str, *seconds: int) -> dict[str, Any]:
    return {"kind": "student", "student": student, "state": "training", "seconds": list(seconds)}


def test_nothing_happened() -> None:
    assert timing([], 3.14159) == {"teacher_s": 0.0, "students_s": 0.0, "wall_s": 3.14, "overlap_s": 0.0}


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
    assert timing([unit(*s) for s in spans], 0)["teacher_s"] == seconds


def test_a_unit_that_was_there_already_is_no_work() -> None:
    assert timing([unit(0, 10, taught=False), steps("a", 1), steps("b", 1)], 0)["overlap_s"] == 0
    assert timing([unit(0, 10, taught=False)], 0)["teacher_s"] == 0


def test_the_students_time_counts_each_second_once() -> None:
    assert timing([steps("a", 1, 2, 3), steps("b", 3, 4), steps("a", 3)], 0)["students_s"] == 4


def test_overlap_wants_the_teacher_and_two_students() -> None:
    events = [
        unit(100.2, 103.9),  # seconds 100 to 103
        steps("a", 100, 101, 102, 103, 104, 105),
        steps("b", 102, 103, 104),
        steps("a", 102),
    ]
    assert timing(events, 0)["overlap_s"] == 2


def test_one_student_twice_is_one_student() -> None:
    assert timing([unit(0, 10), steps("a", 3), steps("a", 3)], 0)["overlap_s"] == 0


def test_overlapping_units_count_a_second_once() -> None:
    assert timing([unit(0, 5), unit(0, 5), steps("a", 2), steps("b", 2)], 0)["overlap_s"] == 1


def test_the_order_of_events_means_nothing() -> None:
    events = [unit(0, 3), unit(2, 9), steps("a", 1, 8), steps("b", 8), steps("c", 1)]
    assert timing(events, 9) == timing(reversed(events), 9)
    assert timing(events, 9)["overlap_s"] == 2


def test_other_events_are_passed_over() -> None:
    news: list[dict[str, Any]] = [
        {"kind": "teacher", "placed": "t"},
        {"kind": "student", "student": "a", "state": "waiting", "unit": 3},
    ]
    assert timing(news, 0) == timing([], 0)
