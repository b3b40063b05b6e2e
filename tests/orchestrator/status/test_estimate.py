"""When the work at hand will be done, by hand."""

from __future__ import annotations

import pytest
from support.toys.watched_run import BEGAN, state, stepped, story, unit

from orchestrator.monitors.progress import Progress
from orchestrator.status.estimate import seconds_left
from workers.channels.events import (
    CaptureStarted,
    EvaluationStarted,
    Event,
    ModelScored,
    RunEnded,
    StageStarted,
    StudentWaiting,
)


def left(*events: Event) -> float | None:
    progress = Progress()
    for event in events:
        progress.take(event)
    return seconds_left(progress)


AT_WORK = [state("medical", "training", 0), stepped("medical", 10, 250), stepped("medical", 20, 500)]
"""At 25 tokens a second, with 500 to go: 20 s."""


def test_nothing_is_known_before_anything_is_at_work() -> None:
    assert left() is None
    assert left(state("medical", "queued", 0)) is None, "no pace is known"
    assert left(*AT_WORK, CaptureStarted(teacher="t", units=4, repairs=0)) is None, "the teacher loads"


def test_the_longest_part_decides() -> None:
    assert left(*AT_WORK) == pytest.approx(20)
    assert left(*story()) == pytest.approx(40), "the teacher's 4 units of 10 s"


def test_what_the_same_workers_train_next_adds_up() -> None:
    control = state("medical.hard_labels", "queued", 20, budget=750)
    assert left(*AT_WORK, control) == pytest.approx(20 + 30), "at the pace of its specialist"


def test_specialists_without_a_place_take_those_of_others() -> None:
    """Two at work end after 20 and 60 s, at 25 and 12.5 tokens a second. Of those that wait the longer (40 s at the
    mean pace) takes the first place that is free, the other one (8 s) the next."""
    second = [state("legal", "training", 0), stepped("legal", 10, 125), stepped("legal", 20, 250)]
    assert left(*AT_WORK, *second) == pytest.approx(60)
    short, long = state("a", "queued", 20, budget=150), state("b", "queued", 20, budget=750)
    assert left(*AT_WORK, *second, short, long) == pytest.approx(60 + 8)


def test_what_failed_and_what_was_to_follow_it_is_not_waited_for() -> None:
    failed = [state("legal", "failed", 20), state("legal.hard_labels", "queued", 20)]
    assert left(*AT_WORK, *failed) == pytest.approx(20)


def test_one_that_waits_is_expected_at_the_pace_at_which_it_does_not() -> None:
    """Between two steps it waited 90 of 100 s: the last 250 tokens take it 10 s, once the units are there."""
    waits = StudentWaiting(student="medical", unit=3, waited=90, seconds=[], time=BEGAN + 110)
    assert left(*AT_WORK[:2], waits, stepped("medical", 120, 750, waited=100)) == pytest.approx(5)


def test_one_that_waits_just_now_is_expected_at_the_pace_that_it_had() -> None:
    waits = StudentWaiting(student="medical", unit=3, waited=1, seconds=[], time=BEGAN + 21)
    assert left(*AT_WORK, waits, *(unit(n, n, 1) for n in range(2))) == pytest.approx(20)


def test_an_evaluation_and_the_end() -> None:
    scoring = [StageStarted(stage="evaluate"), EvaluationStarted(units=10, scored=0, time=BEGAN)]
    scored = [ModelScored(model="m", domain="d", done=n, units=10, time=BEGAN + 5 * n) for n in (1, 2)]
    assert left(*scoring, *scored) == pytest.approx(40)
    slower = [*scored, ModelScored(model="m", domain="d", done=3, units=10, time=BEGAN + 250)]
    assert left(*scoring, *slower) == pytest.approx(7 * 250 / 3)
    assert left(*scoring, *scored, RunEnded(outcome="done")) is None
