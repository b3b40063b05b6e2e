"""How fast counts grow, and curves of any length in a few values."""

from __future__ import annotations

import math

import pytest

from orchestrator.monitors.rates import Curve, Rate, Waits


def test_a_rate_is_of_the_last_minute() -> None:
    rate = Rate()
    assert rate.per_second is None
    for second in range(1000):
        rate.add(second, 10 * second if second < 500 else 5000 + 20 * (second - 500))
    assert rate.per_second == 20
    assert rate.overall == pytest.approx((5000 + 20 * 499) / 999)
    rate.add(1000, 0)
    assert rate.per_second is None and rate.overall is None, "it began anew"


def test_a_rate_of_rare_counts_is_of_the_last_of_them() -> None:
    rate = Rate()
    for hour in range(30):
        rate.add(3600 * hour, hour)
    assert rate.per_second == pytest.approx(1 / 3600)


def test_a_rate_holds_few_points_whatever_comes() -> None:
    rate = Rate()
    for i in range(100_000):
        rate.add(i / 1000, i)
    assert len(rate._points) < 300 and rate.per_second == pytest.approx(1000, rel=0.01)


def test_work_that_is_done_again_begins_a_new_rate() -> None:
    rate = Rate()
    for second, count in enumerate([0, 100, 200, 50, 60]):
        rate.add(second, count)
    assert rate.per_second == 10


def test_two_counts_at_one_moment_are_no_rate() -> None:
    rate = Rate()
    rate.add(5, 0)
    rate.add(5, 7)
    assert rate.per_second is None


def test_a_curve_keeps_the_mean_of_all_and_its_shape() -> None:
    curve = Curve(16)
    for i in range(16 * 1024):
        curve.add(float(i))
    values = curve.values(8)
    assert len(values) == 8 and values == sorted(values)
    assert sum(values) / 8 == pytest.approx((16 * 1024 - 1) / 2)


def test_a_short_curve_is_as_it_is() -> None:
    curve = Curve(16)
    for value in (3.0, math.nan, 2.0, math.inf, 1.0):
        curve.add(value)
    assert curve.values(8) == [3.0, 2.0, 1.0] and curve.values(2) == [2.5, 1.0]


def test_a_wait_counts_once_however_often_it_is_told() -> None:
    waits = Waits()
    assert waits.share is None
    waits.work(100.0)
    for seconds in (0.5, 1.0, 2.0):
        waits.wait(100 + seconds, seconds)
    assert waits.seconds == 2
    waits.work(103.0, waited=2.5)
    assert waits.seconds == 2.5, "the step that followed knows it best"
    waits.work(110.0, waited=0.1)
    assert waits.seconds == 2.5 and waits.share == 0.25
    waits.work(110.0, in_all=5.0)
    assert waits.seconds == 5, "with all waits that were too short to be told"


def test_waits_add_up_and_rests_are_no_time_at_work() -> None:
    waits = Waits()
    for time, seconds in ((1, 1.0), (2, 2.0), (3, 1.0), (10, 1.0)):
        waits.wait(time, seconds)
    assert waits.seconds == 3, "a wait that is shorter than before is another one"
    waits.rest()
    waits.work(1000.0)
    waits.work(1001.0)
    assert waits.seconds == 3 and waits.share == 3 / 10
