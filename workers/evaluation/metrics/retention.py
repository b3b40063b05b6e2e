"""How much of its teacher's scores on tasks a student keeps, with intervals over items. Pure NumPy.

With S, T and B the shares of right answers of student, teacher and the student before training, and c what guessing
gives: retention S / T, chance-corrected (S - c) / (T - c), recovery (S - B) / (T - B).

Legend: I items, M models, K kinds of items (those that all models answered alike), R resamples.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from workers.evaluation.metrics.resampling import Estimate

_UNDEFINED = 0.025
"""Share of resamples in which a ratio may have no value (nothing to divide by) before it has no interval."""

Means = Callable[[np.ndarray], np.ndarray]


def task_score(correct_I: np.ndarray, resamples: int, seed: int) -> Estimate:
    """The share of right answers."""
    return _estimate(lambda means: means[..., 0], [correct_I], [0.0], [1.0], resamples, seed)


def retention(student_I: np.ndarray, teacher_I: np.ndarray, resamples: int, seed: int) -> Estimate:
    """S / T on the same items."""
    return _estimate(_ratio(0, 1), [student_I, teacher_I], [0, 1], [1, 0], resamples, seed)


def corrected_retention(
    student_I: np.ndarray, teacher_I: np.ndarray, chance_I: np.ndarray, resamples: int, seed: int
) -> Estimate:
    """(S - c) / (T - c); `chance_I` are the chances to guess right."""
    c = float(chance_I.mean())
    columns, against = [student_I, teacher_I, chance_I], [0, 1, c]
    return _estimate(_ratio(0, 1, less=2), columns, against, [1, 0, c], resamples, seed)


def recovery(student_I: np.ndarray, teacher_I: np.ndarray, before_I: np.ndarray, resamples: int, seed: int) -> Estimate:
    """(S - B) / (T - B): of the way from where the student began to the teacher, the part that is done."""
    columns, b = [student_I, teacher_I, before_I], float(before_I.mean())
    return _estimate(_ratio(0, 1, less=2), columns, [0, 1, b], [1, 0, b], resamples, seed)


def least_items(share: float) -> int:
    """Items that it takes to show a retention of `share` where teacher and student answer all of them right."""
    return 1 if share <= 0 else int(np.ceil(_MOST_OF_ONE / max(1 - share, 1e-9) - 1))


_MOST_OF_ONE = 3
"""97.5 % of the time, an item among I + 1 is drawn at most so often in I + 1 draws."""


def _ratio(one: int, other: int, less: int | None = None) -> Means:
    """From means [..., M] to the quotient of two of them, a third taken off both; NaN where there is nothing to divide
    by."""

    def of(means: np.ndarray) -> np.ndarray:
        base = means[..., less] if less is not None else 0.0
        over, under = means[..., one] - base, means[..., other] - base
        return np.divide(over, under, out=np.full(np.shape(under), np.nan), where=under > 1e-12)

    return of


def _estimate(
    of: Means, columns: list[np.ndarray], against: list[float], for_it: list[float], resamples: int, seed: int
) -> Estimate:
    """A function of means over items, with its 95 % percentile interval when items are drawn again with replacement,
    the same ones for all models.

    Items that all models answered alike are drawn as one kind, by their number, which is the same draw. Where all
    answers are alike, drawing them again says that nothing is uncertain, whether there are 1,000 items or 5; so each
    end is that of one item more: for the lower one `against` what is measured, for the upper one in its favour. It is
    what the rule of three says (3 / I where none of I failed), and moves the ends of larger samples by less than 1 / I.
    """
    if not len(columns[0]):
        return Estimate(np.nan, np.nan, np.nan)
    items_IM = np.stack(columns, 1).astype(np.float64)
    ends = []
    for added, share in ((against, 0.025), (for_it, 0.975)):
        values_R = of(_means_of_resamples(np.vstack([items_IM, added]), resamples, seed))
        undefined = np.isnan(values_R)
        ends.append(np.nan if undefined.mean() > _UNDEFINED else float(np.quantile(values_R[~undefined], share)))
    return Estimate(float(of(items_IM.mean(0))), *ends)


def _means_of_resamples(items_IM: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """Means [R, M] over items drawn with replacement, as many as there are."""
    kinds_KM, counts_K = np.unique(items_IM, axis=0, return_counts=True)
    drawn_RK = np.random.default_rng(seed).multinomial(len(items_IM), counts_K / len(items_IM), size=resamples)
    return drawn_RK @ kinds_KM / len(items_IM)
