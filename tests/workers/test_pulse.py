"""When ranks at work count as hung."""

from __future__ import annotations

from workers.teacher.pulse import Pulse


def test_a_gang_that_steps_is_not_hung_whoever_steps() -> None:
    pulse = Pulse(2, 10, now=0)
    for now in range(1, 100):
        pulse.heard(0, 5, now)
        pulse.heard(1, now // 9, now)
        assert not pulse.stands_still(now) and not pulse.silent([0, 1], now)


def test_answers_without_steps_stand_still_from_the_last_step_on() -> None:
    pulse = Pulse(2, 10, now=0)
    pulse.heard(0, 1, 8)
    for now in range(9, 18):
        pulse.heard(0, 1, now)
        assert not pulse.stands_still(now)
    pulse.heard(0, 1, 18)
    assert pulse.stands_still(18) and not pulse.silent([0], 18)


def test_a_rank_that_does_not_answer_is_named() -> None:
    pulse = Pulse(3, 10, now=0)
    for now in range(1, 11):
        pulse.heard(0, now, now)
        pulse.heard(2, now, now)
    assert pulse.silent([0, 1, 2], 9) == [] and pulse.silent([0, 1, 2], 10) == [1]
    assert pulse.silent([0, 2], 10) == [], "it is done with its call"


def test_a_rank_that_never_answered_has_the_whole_deadline() -> None:
    pulse = Pulse(1, 10, now=100)
    assert not pulse.silent([0], 109) and not pulse.stands_still(109)
    assert pulse.silent([0], 110) == [0] and pulse.stands_still(110)
