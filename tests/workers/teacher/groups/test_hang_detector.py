"""When ranks at work count as hung."""

from __future__ import annotations

from workers.teacher.groups.hang_detector import HangDetector


def test_a_worker_group_that_steps_is_not_hung_whoever_steps() -> None:
    detector = HangDetector(2, 10, now=0)
    for now in range(1, 100):
        detector.heard(0, 5, now)
        detector.heard(1, now // 9, now)
        assert not detector.stalled(now) and not detector.silent([0, 1], now)


def test_answers_without_steps_stand_still_from_the_last_step_on() -> None:
    detector = HangDetector(2, 10, now=0)
    detector.heard(0, 1, 8)
    for now in range(9, 18):
        detector.heard(0, 1, now)
        assert not detector.stalled(now)
    detector.heard(0, 1, 18)
    assert detector.stalled(18) and not detector.silent([0], 18)


def test_a_rank_that_does_not_answer_is_named() -> None:
    detector = HangDetector(3, 10, now=0)
    for now in range(1, 11):
        detector.heard(0, now, now)
        detector.heard(2, now, now)
    assert detector.silent([0, 1, 2], 9) == [] and detector.silent([0, 1, 2], 10) == [1]
    assert detector.silent([0, 2], 10) == [], "it is done with its call"


def test_a_rank_that_never_answered_has_the_whole_deadline() -> None:
    detector = HangDetector(1, 10, now=100)
    assert not detector.silent([0], 109) and not detector.stalled(109)
    assert detector.silent([0], 110) == [0] and detector.stalled(110)
