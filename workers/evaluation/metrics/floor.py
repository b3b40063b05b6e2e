"""The KL that more tokens would leave: KL(D) = K_inf + b D^-g through checkpoints, with an interval of K_inf.

What it supposes (research/methods.md section 4): checkpoints of one course at one learning rate, since annealing takes
the KL down in a way that no power of D describes, and noise of the measurement only. Other seeds give other courses:
`capacity.floor_difference` pools them.

Two intervals. From standard errors a profile likelihood interval, which held the truth in 95 to 98 % of simulated
courses. (The parametric percentile bootstrap held it in 94 to 97 %, 250 courses of each of four curves; the profile
takes no draws and says the same each time.) From sums of texts, whose difficulty moves all checkpoints at once, the
percentile bootstrap over texts: 95 % of 120 texts as unlike as real ones (their KLs .25 of the mean apart), 93 % where
they are .7 apart.

Legend: n checkpoints, P texts, R resamples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from workers.evaluation.metrics.power_law import MOST_EXPONENT, ROUGH_ROUNDS, PowerLaw, fit_power_law, floor_bounds
from workers.evaluation.metrics.resampling import Estimate, resampled_sums, student_t

Verdict = Literal["capacity-bound", "data-bound", "undecided"]

LEAST_POINTS = 4
_PARAMETERS = 3
_CHI_95 = 3.8415
_Z_999 = 3.0902
_LEARNED = 0.1
"""Part of the first KL that must be gone at the last checkpoint before a plateau says anything of capacity."""


@dataclass(frozen=True)
class FloorPoint:
    """A checkpoint."""

    tokens: float
    """Training tokens before it."""
    kl: float
    """KL(teacher || student) on held-out text, in nats a token."""
    error: float = 0.0
    """Its standard error; 0 of all points where it is not known, which is then judged by how far they lie off."""


@dataclass(frozen=True)
class Floor:
    """What a course of training leads to."""

    points: int
    kl0: float
    """KL of the student as it was before."""
    floor: Estimate | None
    """K_inf in nats a token; None where there is no fit."""
    share: Estimate | None
    """K_inf / KL0."""
    scale: float | None
    """b D^-g at the last checkpoint, in nats a token: what more tokens may still take off."""
    exponent: float | None
    """g"""
    misfit: float | None
    """Residuals in units of their errors, root of chi-square by degree of freedom; None where errors are not known."""
    verdict: Verdict
    advice: str
    """Why, and what to change, in a sentence."""


def fit_floor(points: Sequence[FloorPoint], kl0: float, limit: float = 0.3) -> Floor:
    """From points with standard errors, the verdict by `limit` as a share of `kl0`.

    Where the points lie off the curve by more than their errors allow (1 in 1,000), the interval is wider by as much.
    Raises ValueError for points that cannot be ones: tokens not above 0, a negative error, NaN.
    """
    tokens_n, kl_n, error_n = _checked(points, kl0)
    if reason := _too_few(tokens_n):
        return _no_fit(len(points), kl0, reason)
    known = bool(error_n.all())
    weights_n = 1 / error_n**2 if known else np.ones(len(points))
    fitted = fit_power_law(tokens_n, kl_n[None], weights_n)
    freedom = len(points) - _PARAMETERS
    chi = float(fitted.misfit_R[0]) / freedom
    allowed = student_t(freedom) ** 2 * chi if not known or chi * freedom > _chi_999(freedom) else _CHI_95
    low_R, high_R = floor_bounds(tokens_n, kl_n[None], weights_n, fitted, np.array([allowed]))
    floor = Estimate(float(fitted.floor_R[0]), float(low_R[0]), float(high_R[0]))
    share = Estimate(floor.value / kl0, floor.low / kl0, floor.high / kl0)
    return _judged(len(points), kl0, fitted, floor, share, tokens_n, float(np.sqrt(chi)) if known else None, limit)


def fit_floor_of_texts(
    tokens_n: Sequence[float],
    sums_nP: np.ndarray,
    tokens_P: np.ndarray,
    initial_P: np.ndarray,
    resamples: int,
    seed: int,
    limit: float = 0.3,
) -> Floor:
    """From the KL summed over each held-out text at each checkpoint, and before training (`initial_P`), all of the same
    texts of `tokens_P` target tokens. Texts are drawn again for the interval; where checkpoints lie further off the
    curve than that explains, as the noise of training has them, it is as wide as they are (`scatter`)."""
    table_PK, amounts_n = text_table(tokens_n, sums_nP, tokens_P, initial_P)
    n = len(amounts_n)
    kl_n, kl0 = _means(table_PK.sum(0)[None])
    if reason := _too_few(amounts_n):
        return _no_fit(n, float(kl0[0]), reason)
    weights_n = text_weights(table_PK)
    fitted = fit_power_law(amounts_n, kl_n, weights_n)
    kl_Rn, kl0_R = _means(resampled_sums(table_PK, resamples, seed))
    floor_R = fit_power_law(amounts_n, kl_Rn, weights_n, rounds=ROUGH_ROUNDS).floor_R
    value, low, high = float(fitted.floor_R[0]), *scatter(amounts_n, kl_n, weights_n, fitted)
    floor = Estimate.of(value, floor_R).wider(low, high)
    share = Estimate.of(value / float(kl0[0]), floor_R / kl0_R).wider(low / float(kl0[0]), high / float(kl0[0]))
    return _judged(n, float(kl0[0]), fitted, floor, share, amounts_n, None, limit)


def scatter(amounts_n: np.ndarray, kl_1n: np.ndarray, weights_n: np.ndarray, fitted: PowerLaw) -> tuple[float, float]:
    """Bounds of the floor by how far checkpoints lie off the curve: their profile likelihood interval, whose errors are
    judged by the residuals (Student's t)."""
    freedom = len(amounts_n) - _PARAMETERS
    allowed = student_t(freedom) ** 2 * float(fitted.misfit_R[0]) / freedom
    low_R, high_R = floor_bounds(amounts_n, kl_1n, weights_n, fitted, np.array([allowed]))
    return float(low_R[0]), float(high_R[0])


def text_table(
    tokens_n: Sequence[float], sums_nP: np.ndarray, tokens_P: np.ndarray, initial_P: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """By text its sums at each checkpoint, before training, and its tokens [P, n + 2]; and tokens of training [n].
    Raises ValueError where they do not belong together."""
    amounts_n = np.asarray(tokens_n, float)
    if sums_nP.shape != (len(amounts_n), len(tokens_P)) or len(initial_P) != len(tokens_P):
        raise ValueError(
            f"sums {sums_nP.shape} must be [checkpoints, texts], here [{len(amounts_n)}, {len(tokens_P)}], and those "
            f"before training {len(initial_P)} must be as many"
        )
    table_PK = np.concatenate([sums_nP, initial_P[None], tokens_P[None]]).T.astype(np.float64)
    if not (np.isfinite(table_PK).all() and np.isfinite(amounts_n).all() and (amounts_n > 0).all()):
        raise ValueError("a sum of a text is NaN or infinite, or a checkpoint has no tokens")
    if not initial_P.sum() > 0:
        raise ValueError("the KL before training is not above 0: there is nothing to learn")
    return table_PK, amounts_n


def text_weights(table_PK: np.ndarray) -> np.ndarray:
    """Inverse variances [n] of the mean KL at each checkpoint."""
    sums_Pn, m_P1 = table_PK[:, :-2], table_PK[:, -1:]
    residual_Pn = sums_Pn - m_P1 * (sums_Pn.sum(0) / m_P1.sum())
    variance_n = (residual_Pn**2).sum(0) / m_P1.sum() ** 2
    return 1 / np.maximum(variance_n, 1e-12 * variance_n.max()) if variance_n.any() else np.ones(sums_Pn.shape[1])


def _means(sums_RK: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean KL [R, n] at checkpoints and [R] before training."""
    means_RK = sums_RK[:, :-1] / np.maximum(sums_RK[:, -1:], 1e-9)
    return means_RK[:, :-1], means_RK[:, -1]


def _checked(points: Sequence[FloorPoint], kl0: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    table = np.array([[p.tokens, p.kl, p.error] for p in points], float).reshape(-1, 3)
    if not np.isfinite(table).all() or (table[:, 0] <= 0).any() or (table[:, 2] < 0).any():
        raise ValueError("points of a floor need tokens above 0, a finite KL and an error of at least 0")
    if table[:, 2].any() and not table[:, 2].all():
        raise ValueError("some points of a floor have no error; give that of all, or of none")
    if not (np.isfinite(kl0) and kl0 > 0):
        raise ValueError(f"the KL before training is {kl0}; a floor is a share of one above 0")
    return table[:, 0], table[:, 1], table[:, 2]


def _too_few(tokens_n: np.ndarray) -> str | None:
    if (n := len(np.unique(tokens_n))) < LEAST_POINTS:
        return (
            f"{n} checkpoints; a floor is fitted from {LEAST_POINTS} at least: evaluate more, each at twice the tokens"
        )
    return None


def _no_fit(points: int, kl0: float, reason: str) -> Floor:
    return Floor(points, kl0, None, None, None, None, None, "undecided", reason)


def _judged(
    points: int,
    kl0: float,
    fitted: PowerLaw,
    floor: Estimate,
    share: Estimate,
    tokens_n: np.ndarray,
    misfit: float | None,
    limit: float,
) -> Floor:
    now, doubled = fitted.at(np.array([tokens_n.max(), 2 * tokens_n.max()]))[0]
    verdict: Verdict = "undecided"
    if now > (1 - _LEARNED) * kl0:
        advice = (
            f"the KL is still {now / kl0:.0%} of what it was: look at the learning rate and the data before the size"
        )
    elif is_too_fast(fitted):
        advice = f"{TOO_FAST}; fit it to later checkpoints"
    elif share.low > limit:
        verdict = "capacity-bound"
        advice = (
            f"more tokens would leave {share.low:.0%} or more of the KL: give it more parameters, narrow its domain, "
            "or train it from an assistant between it and the teacher"
        )
    elif share.high < limit:
        verdict = "data-bound"
        advice = f"train on: twice the tokens would take the KL from {now:.3g} to {doubled:.3g} nats"
    else:
        advice = (
            f"the floor may be {share.low:.0%} to {share.high:.0%} of the first KL: evaluate more checkpoints, further "
            "apart in tokens, or more held-out texts"
        )
    scale = float(now - fitted.floor_R[0])
    return Floor(points, kl0, floor, share, scale, float(fitted.exponent_R[0]), misfit, verdict, advice)


TOO_FAST = "the KL falls faster than any power of the tokens, as it does at first, which tells nothing of where it ends"


def is_too_fast(fitted: PowerLaw) -> bool:
    """Whether the exponent of the first curve is at its bound: then the floor is hardly more than the last point."""
    return float(fitted.exponent_R[0]) > MOST_EXPONENT * (1 - 1e-3)


def _chi_999(freedom: int) -> float:
    """The .999 quantile of chi-square (Wilson and Hilferty 1931), to a few per cent."""
    part = 2 / (9 * freedom)
    return freedom * (1 - part + _Z_999 * part**0.5) ** 3
