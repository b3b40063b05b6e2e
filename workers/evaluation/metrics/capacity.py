"""Whether a student is large enough: before training by its first KL and its size, after it by floors side by side.

Legend: n checkpoints, P texts, R resamples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from workers.evaluation.metrics.floor import LEAST_POINTS, TOO_FAST, is_too_fast, scatter, text_table, text_weights
from workers.evaluation.metrics.power_law import ROUGH_ROUNDS, PowerLaw, fit_power_law
from workers.evaluation.metrics.resampling import Estimate, resampled_sums, student_t


@dataclass(frozen=True)
class SizeAdvice:
    """What is known of students of such a size."""

    ratio: float
    """The student's parameters as a share of those of the teacher that work on a token."""
    enough: bool
    text: str
    """Advice, not a verdict: there are runs that went against it."""


def size_advice(student: int, teacher_active: int, share: float = 0.1) -> SizeAdvice:
    """By parameters of the student and active ones of the teacher: gains were seen from a tenth of a teacher's size up
    (rule C of research/methods.md section 4, a design-space study of pre-training). That a mixture of experts is as
    large as what works on a token is our reading of it. Raises ValueError for sizes not above 0."""
    if student <= 0 or teacher_active <= 0:
        raise ValueError(f"parameters of student {student} and teacher {teacher_active} must be above 0")
    ratio = student / teacher_active
    of = f"the student has {ratio:.1%} of the teacher's active parameters"
    if ratio >= share:
        return SizeAdvice(ratio, True, f"{of}: distillation was seen to pay from {share:.0%} up")
    least = f"{share * teacher_active:,.0f} parameters"
    return SizeAdvice(
        ratio,
        False,
        f"{of}, and distillation was seen to pay from {share:.0%} up: expect more of {least}, a smaller teacher or an "
        "assistant between them; smaller students have gained too (by reverse KL), so measure before you change it",
    )


@dataclass(frozen=True)
class FloorDifference:
    """How much lower one floor lies than another: K_inf(mixed) - K_inf(domain), above 0 where specialising pays."""

    mixed: Estimate
    domain: Estimate
    difference: Estimate
    of: Literal["seeds", "texts", "separate fits"]
    """What the interval is over."""
    too_fast: bool = False
    """Whether one of the curves falls faster than any power, so that its floor is hardly more than its last point."""
    equal_tokens: float | None = None
    """Training tokens of the domain that both had seen, the most of such; None where there are none, or of seeds."""
    at_equal_tokens: Estimate | None = None
    """KL of the generalist less that of the specialist there, read off both curves: no floor need be known for it."""

    @property
    def verdict(self) -> str:
        """What the interval says, in a sentence."""
        d = self.difference
        bounds = f"({d.low:.3g} to {d.high:.3g} nats)" + (f"; but {TOO_FAST}" if self.too_fast else "")
        if d.low > 0:
            return f"the specialist's floor is {d.value:.3g} nats lower than the generalist's {bounds}"
        if d.high < 0:
            return f"the specialist's floor is {-d.value:.3g} nats higher than the generalist's {bounds}"
        return f"the floors of specialist and generalist cannot be told apart {bounds}"

    @property
    def at_equal_verdict(self) -> str:
        """What they are after as many tokens of the domain, in a sentence; empty where there are none."""
        d = self.at_equal_tokens
        if d is None:
            return ""
        after, bounds = f"after {self.equal_tokens:,.0f} tokens of its domain", f"({d.low:.3g} to {d.high:.3g} nats)"
        if d.low > 0:
            return f"{after} the specialist is {d.value:.3g} nats nearer than a generalist after as many {bounds}"
        if d.high < 0:
            return f"{after} the specialist is {-d.value:.3g} nats farther than a generalist after as many {bounds}"
        return f"{after} it cannot be told whether the specialist or a generalist after as many is nearer {bounds}"


def floor_difference_of_seeds(mixed: Sequence[float], domain: Sequence[float]) -> FloorDifference:
    """From the floors of courses that differ by seed, each seed's generalist and specialist paired, by Student's t.

    It has the noise of training in it and, where all seeds are measured on the same texts, none of the texts'. Raises
    ValueError for fewer than two seeds, or not as many of each.
    """
    if len(mixed) != len(domain) or len(mixed) < 2:
        raise ValueError(f"{len(mixed)} floors of the generalist, {len(domain)} of the specialist: two seeds at least")
    a, b = np.asarray(mixed, float), np.asarray(domain, float)
    return FloorDifference(_by_t(a), _by_t(b), _by_t(a - b), "seeds")


def floor_difference_of_texts(
    mixed_tokens_n: Sequence[float],
    mixed_nP: np.ndarray,
    domain_tokens_n: Sequence[float],
    domain_nP: np.ndarray,
    tokens_P: np.ndarray,
    resamples: int,
    seed: int,
) -> FloorDifference:
    """From the KL summed over each held-out text of the domain, of `tokens_P` target tokens, at checkpoints of both
    students, each after its own training tokens of the domain. Both floors are fitted to the same draws of texts, and
    where checkpoints lie further off their curve than texts explain, intervals are as wide as they do.
    Raises ValueError for fewer than four checkpoints, and sums that do not belong together."""
    if (fewest := min(len(set(mixed_tokens_n)), len(set(domain_tokens_n)))) < LEAST_POINTS:
        raise ValueError(f"{fewest} checkpoints; a floor is fitted from {LEAST_POINTS} at least")
    ones_P = np.ones(len(tokens_P))
    found, ends, curves, too_fast = [], [], list[tuple[PowerLaw, float]](), False
    for tokens_n, sums_nP in ((mixed_tokens_n, mixed_nP), (domain_tokens_n, domain_nP)):
        table_PK, amounts_n = text_table(tokens_n, sums_nP, tokens_P, ones_P)
        draws_RK = np.concatenate([table_PK.sum(0)[None], resampled_sums(table_PK, resamples, seed)])
        kl_Rn = draws_RK[:, :-2] / np.maximum(draws_RK[:, -1:], 1e-9)
        fitted = fit_power_law(amounts_n, kl_Rn, text_weights(table_PK), rounds=ROUGH_ROUNDS)
        found.append(fitted.floor_R)
        too_fast |= is_too_fast(fitted)
        curves.append((fitted, _off_curve(amounts_n, kl_Rn[0], fitted)))
        ends.append(scatter(amounts_n, kl_Rn[:1], text_weights(table_PK), _first(fitted)))
    mixed_R, domain_R = found
    mixed, domain = (_by_draws(f).wider(*e) for f, e in zip(found, ends, strict=True))
    apart = floor_difference_of_fits(*(Estimate(float(f[0]), *e) for f, e in zip(found, ends, strict=True)))
    difference = _by_draws(mixed_R - domain_R).wider(apart.difference.low, apart.difference.high)
    tokens, equal = _at_equal_tokens(curves, mixed_tokens_n, domain_tokens_n)
    return FloorDifference(mixed, domain, difference, "texts", too_fast, tokens, equal)


def _off_curve(amounts_n: np.ndarray, kl_n: np.ndarray, fitted: PowerLaw) -> float:
    """Half of the 95 % interval of a curve inside its points, by how far they lie off it: of n points and three
    parameters the mean leverage is 3 / n."""
    residual_n = kl_n - fitted.at(amounts_n)[0]
    freedom = len(amounts_n) - 3
    spread = float(np.sqrt((residual_n**2).sum() / freedom))
    return student_t(freedom) * spread * float(np.sqrt(3 / len(amounts_n)))


def _at_equal_tokens(
    curves: Sequence[tuple[PowerLaw, float]], mixed_tokens_n: Sequence[float], domain_tokens_n: Sequence[float]
) -> tuple[float | None, Estimate | None]:
    """The most tokens at which both curves have points on either side, and how far the first is above the second."""
    tokens = min(max(mixed_tokens_n), max(domain_tokens_n))
    if tokens < max(min(mixed_tokens_n), min(domain_tokens_n)):
        return None, None
    mixed_R, domain_R = (fitted.at(tokens)[:, 0] for fitted, _ in curves)
    off = float(np.hypot(curves[0][1], curves[1][1]))
    found = _by_draws(mixed_R - domain_R)
    return tokens, found.wider(found.value - off, found.value + off)


def floor_difference_of_fits(mixed: Estimate, domain: Estimate) -> FloorDifference:
    """From two floors with intervals of noise that is not shared, by the square roots of their squared half-widths on
    the sides that matter (Zou and Donner 2008). Wider than it need be where the same texts measure both."""
    d = mixed.value - domain.value
    low = d - float(np.hypot(mixed.value - mixed.low, domain.high - domain.value))
    high = d + float(np.hypot(mixed.high - mixed.value, domain.value - domain.low))
    return FloorDifference(mixed, domain, Estimate(d, low, high), "separate fits")


def _first(fitted: PowerLaw) -> PowerLaw:
    """The first of some curves alone."""
    one = slice(0, 1)
    return PowerLaw(
        fitted.floor_R[one], fitted.scale_R[one], fitted.exponent_R[one], fitted.misfit_R[one], fitted.centre
    )


def _by_t(values: np.ndarray) -> Estimate:
    mean, n = float(values.mean()), len(values)
    half = student_t(n - 1) * float(values.std(ddof=1)) / n**0.5
    return Estimate(mean, mean - half, mean + half)


def _by_draws(values_R: np.ndarray) -> Estimate:
    return Estimate.of(values_R[0], values_R[1:])
