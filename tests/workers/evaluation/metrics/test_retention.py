"""Retention and what stands beside it: values by hand, and how often intervals hold the truth."""

from __future__ import annotations

import numpy as np
import pytest

from workers.evaluation.metrics.retention import (
    Estimate,
    corrected_retention,
    least_items,
    recovery,
    retention,
    task_score,
)

SEED = 0


def answers(rng: np.random.Generator, items: int, teacher: float, ratio: float) -> tuple[np.ndarray, np.ndarray]:
    """Right answers of a student and a teacher of known shares, in which items are hard for both: of each item the
    student's chance is higher where the teacher is right."""
    share = ratio * teacher
    where_right = share + 0.5 * (1 - share)
    where_wrong = (share - where_right * teacher) / (1 - teacher)
    teacher_I = rng.random(items) < teacher
    return (rng.random(items) < np.where(teacher_I, where_right, where_wrong)).astype(float), teacher_I.astype(float)


def test_values_are_quotients_of_means() -> None:
    student_I, teacher_I = np.array([1.0, 0, 1, 0, 1, 0]), np.array([1.0, 1, 1, 0, 1, 0])
    before_I, chance_I = np.array([0.0, 0, 1, 0, 0, 0]), np.full(6, 0.25)
    assert task_score(student_I, 200, SEED).value == 3 / 6
    assert retention(student_I, teacher_I, 200, SEED).value == pytest.approx(3 / 4)
    assert corrected_retention(student_I, teacher_I, chance_I, 200, SEED).value == pytest.approx(0.25 / (4 / 6 - 0.25))
    assert recovery(student_I, teacher_I, before_I, 200, SEED).value == pytest.approx(2 / 3)


def test_a_student_that_answers_as_its_teacher_keeps_all_of_it() -> None:
    rng = np.random.default_rng(1)
    teacher_I = (rng.random(400) < 0.7).astype(float)
    found = retention(teacher_I, teacher_I, 1000, SEED)
    assert found.value == 1 and 1 - 5 / 400 / 0.7 < found.low < 1 < found.high


@pytest.mark.parametrize("items", [5, 58, 59, 200])
def test_few_items_show_little_even_if_all_are_right(items: int) -> None:
    right_I = np.ones(items)
    found = retention(right_I, right_I, 4000, SEED)
    assert found.value == 1
    assert (found.low >= 0.95) == (items >= least_items(0.95) == 59), "the rule of three: about 1 - 3 / items"
    assert task_score(right_I, 4000, SEED).low == pytest.approx(found.low)


def test_where_there_is_nothing_to_divide_by_nothing_is_known() -> None:
    none_I, some_I = np.zeros(50), np.ones(50)
    nothing = retention(some_I, none_I, 200, SEED)
    assert np.isnan(nothing.value) and np.isnan(nothing.high)
    at_chance = corrected_retention(some_I, np.tile([1.0, 0], 25), np.full(50, 0.5), 200, SEED)
    assert all(np.isnan([at_chance.value, at_chance.low, at_chance.high]))
    assert all(np.isnan(list(vars(recovery(some_I, some_I, some_I, 200, SEED)).values())))
    assert np.isnan(retention(np.zeros(0), np.zeros(0), 200, SEED).value)


def test_intervals_are_the_same_each_time_and_of_items_in_any_order() -> None:
    student_I, teacher_I = answers(np.random.default_rng(2), 300, 0.8, 0.9)
    order = np.random.default_rng(3).permutation(300)
    found = retention(student_I, teacher_I, 500, SEED)
    assert found == retention(student_I[order], teacher_I[order], 500, SEED)
    assert found != retention(student_I, teacher_I, 500, SEED + 1)


def test_intervals_hold_the_truth_nineteen_times_of_twenty() -> None:
    """95 % of 1,000 repeats, give or take: 93 to 97 % is three standard errors to either side."""
    teacher, ratio, repeats = 0.8, 0.9, 1000
    held = {"score": 0, "retention": 0}

    def holds(found: Estimate, truth: float) -> bool:
        return found.low <= truth <= found.high

    for repeat in range(repeats):
        student_I, teacher_I = answers(np.random.default_rng([7, repeat]), 300, teacher, ratio)
        held["score"] += holds(task_score(student_I, 400, repeat), ratio * teacher)
        held["retention"] += holds(retention(student_I, teacher_I, 400, repeat), ratio)
    assert all(0.93 <= count / repeats <= 0.97 for count in held.values()), held
