"""From events to points: which numbers, at which steps, and none twice."""

from __future__ import annotations

import pytest
from support.toys.tracked_run import scored, told_step, told_unit, whole_run

from orchestrator.trackers.metrics import METRICS
from orchestrator.trackers.points import Meter, Point
from workers.channels.events import (
    CaptureStarted,
    Event,
    FirstKlMeasured,
    ReplicaAtWork,
    ReplicaReady,
    StageStarted,
    StudentWaiting,
)


def points(*events: Event, every_s: float = 0.0, meter: Meter | None = None) -> list[Point]:
    meter = meter or Meter(every_s)
    return [point for event in events for point in meter.take(event)]


def test_a_step_tells_its_numbers_and_how_fast_it_goes_and_how_long_it_waited_in_all() -> None:
    first, second = points(told_step("medical", 1, 10.0), told_step("medical", 3, 14.0, loss=1.0))
    assert (first.student, first.step, first.time) == ("medical", 1, 10.0)
    assert first.named() == {
        "train/loss": 2.0, "train/grad_norm": 1.0, "train/lr": 1e-3, "train/tokens": 10, "train/waited_s": 0.5,
    }  # fmt: skip
    assert second.named()["train/loss"] == 1.0 and second.named()["train/waited_s"] == 1.0
    assert second.named()["train/tokens_per_s"] == (30 - 10) / (14.0 - 10.0)


def test_the_kl_before_training_is_step_0_and_is_told_once() -> None:
    began = FirstKlMeasured(student="medical", kl=1.5, tokens=10, time=9.0)
    found = points(began, told_step("medical", 1, 10.0), began, told_step("medical", 1, 12.0))
    assert [(p.step, "train/first_kl" in p.named()) for p in found] == [(0, True), (1, False)]


def test_points_lie_apart_as_asked_but_for_the_last_one() -> None:
    steps = [told_step("medical", i, 10.0 + 0.2 * i) for i in range(1, 11)]
    last = told_step("medical", 100, 12.1)  # its budget is spent
    found = points(*steps, last, every_s=1.0)
    assert [p.step for p in found] == [1, 6, 100]
    assert found[-1].named()["train/waited_s"] == 0.5 * 11  # those of steps that are not told count too


def test_steps_that_are_repeated_after_a_checkpoint_are_passed_over() -> None:
    found = points(
        *(told_step("m", i, 10.0 + i) for i in (1, 2, 3, 4)), *(told_step("m", i, 20.0 + i) for i in (3, 4, 5))
    )
    assert [p.step for p in found] == [1, 2, 3, 4, 5]


def test_a_later_meter_goes_on_where_an_earlier_one_stood() -> None:
    events = [event for attempt in whole_run() for event in attempt]
    whole = [(p.student, p.step, p.final) for p in points(*events)]
    for cut in range(len(events)):
        first = Meter(0.0)
        told = [(p.student, p.step, p.final) for p in points(*events[:cut], meter=first)]
        told += [(p.student, p.step, p.final) for p in points(*events[cut:], meter=Meter(0.0, first.state))]
        assert told == whole


def test_a_teacher_tells_its_units_its_tokens_and_its_replicas() -> None:
    found = points(
        CaptureStarted(teacher="big", units=2, repairs=0),
        ReplicaReady(teacher="big", weights_held=[1], replica="x", time=10.0),
        ReplicaAtWork(teacher="big", replica="y", texts=1, slots=2, time=10.0),
        told_unit(0, 11.0, "big"),
        told_unit(0, 12.0, "big", won=False),
        told_unit(1, 13.0, "big"),
        StageStarted(stage="evaluate", time=20.0),
    )
    assert [p.named() for p in found] == [
        {"big/units": 1, "big/targets": 5, "big/replicas": 2},
        {"big/units": 2, "big/targets": 10, "big/replicas": 2, "big/targets_per_s": 2.5},
        {"big/replicas": 0},
    ]
    assert [p.step for p in found] == [1, 2, 2]


def test_a_student_that_waits_tells_so_for_who_looks_on_now() -> None:
    step, waits = points(
        told_step("m", 1, 10.0), StudentWaiting(student="m", unit=3, waited=7.0, seconds=[], time=18.0)
    )
    assert waits.passing and not step.passing and waits.named() == {"train/waited_s": 7.5}


def test_scores_are_told_once_unless_they_change() -> None:
    found = points(told_step("m", 9, 10.0), scored("m"), scored("m", time=950.0), scored("m", kl=0.125))
    assert [(p.step, p.final, p.named().get("heldout/kl")) for p in found] == [
        (9, False, None), (9, True, 0.25), (9, True, 0.125),
    ]  # fmt: skip
    assert found[1].verdict == "m is near."
    assert found[1].named() == {
        "heldout/kl": 0.25, "heldout/kl_low": 0.2, "heldout/kl_high": 0.3, "heldout/initial_kl": 2.5,
        "gate/retention": 0.9, "gate/passed": 1.0,
    }  # fmt: skip


@pytest.mark.parametrize("of", ["key", "gauge", "meaning"])
def test_no_two_metrics_share_a_name(of: str) -> None:
    assert len({getattr(metric, of) for metric in METRICS}) == len(METRICS)
