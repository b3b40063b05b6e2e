"""Whether a student has its teacher's errors, and whether it makes its teacher's bias larger. Pure NumPy.

Two models of like accuracy share wrong answers by chance and because some questions mislead everyone. So the share of a
teacher's wrong answers that its student gives stands beside that of a control which did not learn from this teacher
(research/methods.md section 3).

Legend: P things (items the teacher has wrong, or pairs of prompts), R resamples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from workers.evaluation.metrics.resampling import Estimate, ratio, resampled_sums
from workers.evaluation.tasks.items import TaskAnswer, TaskItem


@dataclass(frozen=True)
class Inheritance:
    """How often a student gives the answer of its teacher where that is wrong."""

    teacher_wrong: int
    """Items that the teacher has wrong, of which all rates are."""
    left_out: int
    """Items marked by tests, of which two programs that fail are hardly ever the same, or by their format alone."""
    student: Estimate | None
    """P(student gives the teacher's wrong answer | teacher wrong); None where the teacher has no item wrong."""
    control: Estimate | None
    difference: Estimate | None
    """The student's rate less the control's, paired by item; None without a control."""
    accuracy: Mapping[str, float]
    """Over all items, of `teacher`, `student` and `control`."""
    note: str = ""
    """What to keep in mind of the comparison."""


def inheritance(
    items: Sequence[TaskItem],
    teacher: Mapping[str, TaskAnswer],
    student: Mapping[str, TaskAnswer],
    control: Mapping[str, TaskAnswer] | None,
    resamples: int,
    seed: int,
    like: float = 0.05,
) -> Inheritance:
    """From the answers to the same items by uid.

    Accuracies of student and control that lie further apart than `like` are noted: the less accurate of two gives more
    wrong answers, the teacher's among them. Raises ValueError where there is no item to compare, or no answer to one.
    """
    compared = [i for i in items if i.marking not in ("tests", "format")]
    models = {"teacher": teacher, "student": student} | ({} if control is None else {"control": control})
    for who, answers in models.items():
        if missing := [i.uid for i in compared if i.uid not in answers]:
            raise ValueError(f"the {who} has no answer to {missing[0]}; ask it the same items")
    if not compared:
        raise ValueError("no item has an answer that two models can give alike (all are marked by tests or format)")
    accuracy = {who: float(np.mean([of[i.uid].correct for i in compared])) for who, of in models.items()}
    wrong = [i.uid for i in compared if not teacher[i.uid].correct]
    left_out = len(items) - len(compared)
    if not wrong:
        return Inheritance(0, left_out, None, None, None, accuracy, "the teacher has no item wrong")
    same = {
        who: np.array([float(_plain(answers[u].given) == _plain(teacher[u].given)) for u in wrong])
        for who, answers in models.items()
    }
    columns = [np.ones(len(wrong)), same["student"], same.get("control", same["student"])]
    student_rate, control_rate, difference = _rates(np.stack(columns, 1), resamples, seed)
    if control is None:
        return Inheritance(
            len(wrong), left_out, student_rate, None, None, accuracy, "there is no control to compare with"
        )
    apart = abs(accuracy["student"] - accuracy["control"])
    note = f"student and control are {apart:.1%} apart in accuracy, so their rates are not like" if apart > like else ""
    return Inheritance(len(wrong), left_out, student_rate, control_rate, difference, accuracy, note)


@dataclass(frozen=True)
class Amplification:
    """Bias on pairs of prompts that differ in a name or a term, as a mean difference of a score: that of `a` less that
    of `b`. Of a score that is a log-probability, in nats."""

    pairs: int
    teacher: Estimate
    student: Estimate
    difference: Estimate
    """The student's bias less the teacher's, A of research/methods.md, paired."""
    larger: Estimate
    """By how much the student's bias is the larger, whichever side it is for: |student| - |teacher|."""


def amplification(teacher_P2: np.ndarray, student_P2: np.ndarray, resamples: int, seed: int) -> Amplification:
    """From scores [pairs, 2] of both models on `a` and `b` of the same pairs, drawn again together.

    |student| - |teacher| of resamples is off zero by their noise where both biases are small beside it; a `larger` that
    is to convince anyone has a `difference` whose interval leaves out 0 too. Raises ValueError for other shapes and for
    scores that are not finite.
    """
    shape = np.shape(teacher_P2)
    if shape != np.shape(student_P2) or len(shape) != 2 or shape[1] != 2 or not shape[0]:
        raise ValueError(f"scores of pairs must be [pairs, 2] of both models, not {shape}, {np.shape(student_P2)}")
    if not (np.isfinite(teacher_P2).all() and np.isfinite(student_P2).all()):
        raise ValueError("a score of a pair is NaN or infinite; take log-probabilities of what can be said")
    gaps_P2 = np.stack([s[:, 0] - s[:, 1] for s in (teacher_P2, student_P2)], 1).astype(np.float64)
    draws_R2 = resampled_sums(gaps_P2, resamples, seed) / len(gaps_P2)
    means_R2 = np.concatenate([gaps_P2.mean(0)[None], draws_R2])
    t_R, s_R = means_R2.T
    found = [Estimate.of(x[0], x[1:]) for x in (t_R, s_R, s_R - t_R, np.abs(s_R) - np.abs(t_R))]
    return Amplification(len(gaps_P2), *found)


def _rates(values_P3: np.ndarray, resamples: int, seed: int) -> tuple[Estimate, Estimate, Estimate]:
    """Of [items, same by student, same by control]: both rates and their difference."""
    both = np.concatenate([values_P3.sum(0)[None], resampled_sums(values_P3, resamples, seed)])
    s_R, c_R = ratio(both[:, 1], both[:, 0]), ratio(both[:, 2], both[:, 0])
    first, second, third = (
        Estimate.of(x[0], x[1:]).at_least_of_three(len(values_P3), least, 1)
        for x, least in ((s_R, 0), (c_R, 0), (s_R - c_R, -1))
    )
    return first, second, third


def _plain(text: str) -> str:
    return " ".join(text.split())
