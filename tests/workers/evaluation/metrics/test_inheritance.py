"""A planted error of a teacher is found in who learned from it and not in who did not; intervals hold."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch

from workers.evaluation.metrics.inheritance import amplification, inheritance
from workers.evaluation.metrics.resampling import Estimate
from workers.evaluation.tasks.items import TaskAnswer, TaskItem

BITS, CLASSES = 12, 4


@cache
def world() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """All inputs [4096, BITS], their true classes, and the teacher's: wrong by a rule on one in twenty, or so."""
    x = torch.from_numpy(((np.arange(2**BITS)[:, None] >> np.arange(BITS)) & 1).astype(np.float32))
    truth = (2 * (x[:, 0] != x[:, 1]) + (x[:, 2] != x[:, 3])).long()
    planted = (x[:, 4] + x[:, 5] + x[:, 6] + x[:, 7] == 4) & (x[:, 8:].sum(1) >= 1)
    return x, truth, torch.where(planted, (truth + 1) % CLASSES, truth)


def learned(labels: torch.Tensor, seed: int, steps: int = 250) -> torch.Tensor:
    """What a small network says to all inputs after it learned from every second one."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        x = world()[0]
        model = torch.nn.Sequential(torch.nn.Linear(BITS, 48), torch.nn.ReLU(), torch.nn.Linear(48, CLASSES))
        rows = torch.randperm(len(x))[: len(x) // 2]
        optimizer = torch.optim.Adam(model.parameters(), 0.02)
        for _ in range(steps):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(x[rows] * 2 - 1), labels[rows]).backward()
            optimizer.step()
        return model(x * 2 - 1).argmax(-1)


def answers(given: torch.Tensor) -> dict[str, TaskAnswer]:
    truth = world()[1]
    return {str(i): TaskAnswer(str(i), bool(g == truth[i]), f" {g}", 1.0) for i, g in enumerate(given.tolist())}


def answers_to(some: list[TaskItem], given: torch.Tensor) -> dict[str, TaskAnswer]:
    told = answers(given)
    return {i.uid: told[i.uid] for i in some}


def items(marking: str = "exact") -> list[TaskItem]:
    return [TaskItem(str(i), "t", "d", "", marking) for i in range(2**BITS)]  # type: ignore[arg-type]


def test_a_planted_error_is_inherited_from_the_teacher_and_not_from_labels() -> None:
    _, truth, taught = world()
    assert 0.04 < (truth != taught).float().mean() < 0.06
    student, early = answers(learned(taught, 0)), answers(learned(truth, 1, steps=10))
    found = inheritance(items(), answers(taught), student, early, 1000, 0)
    assert found.student is not None and found.control is not None and found.difference is not None
    assert found.student.low > 0.9 and found.control.high < 0.2 and found.difference.low > 0.7
    assert found.teacher_wrong == int((truth != taught).sum()) and not found.note  # both are right on 94 %
    late = inheritance(items(), answers(taught), student, answers(learned(truth, 1)), 1000, 0)
    assert late.control is not None and late.control.high < 0.05 and "apart in accuracy" in late.note


def test_a_student_that_errs_elsewhere_has_inherited_nothing() -> None:
    """Both give the teacher's wrong answer to a third of what it has wrong, by chance: 0 is in 95 of 100 intervals."""
    _, truth, taught = world()
    some = [i for i in items() if taught[int(i.uid)] != truth[int(i.uid)]][:150]
    taught_some = answers_to(some, taught)
    rng, inside = torch.Generator().manual_seed(0), 0
    for repeat in range(200):
        chance = [(truth + torch.randint(1, CLASSES, truth.shape, generator=rng)) % CLASSES for _ in "ab"]
        given = [{i.uid: TaskAnswer(i.uid, False, f"{c[int(i.uid)]}", 1.0) for i in some} for c in chance]
        found = inheritance(some, taught_some, given[0], given[1], 300, repeat)
        assert found.student is not None and found.difference is not None
        assert abs(found.student.value - 1 / 3) < 4 * (2 / 9 / 150) ** 0.5
        inside += found.difference.low <= 0 <= found.difference.high
    assert 178 <= inside <= 198  # three standard deviations either side


def test_what_cannot_be_compared_is_said() -> None:
    _, truth, taught = world()
    right, wrong = answers(truth), answers(taught)
    none = inheritance(items(), right, wrong, None, 10, 0)
    assert none.student is None and "no item wrong" in none.note
    alone = inheritance(items(), wrong, wrong, None, 10, 0)
    assert (
        alone.student == Estimate(1, pytest.approx(1 - 3 / (alone.teacher_wrong + 1)), 1)
        and alone.control is None
        and "no control" in alone.note
    )
    apart = inheritance(items(), wrong, wrong, answers(truth * 0), 10, 0)
    assert "apart in accuracy" in apart.note
    coded = items()[:9] + items("tests")[9:]
    assert inheritance(coded, wrong, wrong, wrong, 10, 0).left_out == 2**BITS - 9
    with pytest.raises(ValueError, match="marked by tests"):
        inheritance(items("tests"), wrong, wrong, wrong, 10, 0)
    with pytest.raises(ValueError, match="control has no answer to 0"):
        inheritance(items(), wrong, wrong, {}, 10, 0)


def test_a_bias_that_grew_is_found_whichever_side_it_is_for() -> None:
    rng = np.random.default_rng(0)
    easy_P1 = rng.normal(size=(400, 1))
    for side in (1, -1):
        teacher = easy_P1 + side * np.array([0.2, 0.0]) + 0.3 * rng.normal(size=(400, 2))
        student = easy_P1 + side * np.array([0.5, 0.0]) + 0.3 * rng.normal(size=(400, 2))
        found = amplification(teacher, student, 1000, 0)
        assert found.larger.low > 0.1 and found.larger.high < 0.5
        assert side * found.difference.value > 0.2 and side * found.teacher.value > 0.1
        assert found.difference.value == pytest.approx(found.student.value - found.teacher.value)
        same = amplification(teacher, teacher, 1000, 0)
        assert (same.difference, same.larger) == (Estimate(0, 0, 0), Estimate(0, 0, 0))


def test_the_interval_of_amplification_holds_the_truth_as_often_as_it_says() -> None:
    rng, inside = np.random.default_rng(0), 0
    for repeat in range(1000):
        shared_P1 = rng.exponential(size=(100, 1))
        teacher, student = (bias + shared_P1 * rng.normal(size=(100, 2)) for bias in ([0.1, 0.0], [0.3, 0.0]))
        found = amplification(teacher, student, 500, repeat).difference
        inside += found.low <= 0.2 <= found.high
    assert 930 <= inside <= 970


def test_pairs_of_other_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="pairs, 2"):
        amplification(np.zeros((3, 2)), np.zeros((4, 2)), 10, 0)
    with pytest.raises(ValueError, match="NaN"):
        amplification(np.zeros((3, 2)), np.full((3, 2), -np.inf), 10, 0)
