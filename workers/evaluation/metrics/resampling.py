"""Numbers with intervals, of statistics that are functions of sums over things drawn again with replacement.

Things may be texts, items or pairs. Whatever is compared is summed over the same draws, so differences are paired.

Legend: P things, K sums of each, R resamples.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_CHUNK = 1 << 22
"""Counts of draws that exist at a time, 32 MB of them."""


@dataclass(frozen=True)
class Estimate:
    """A number and the bounds of its 95 % interval."""

    value: float
    low: float
    high: float

    @staticmethod
    def of(value: float, draws_R: np.ndarray) -> Estimate:
        """With the percentile interval of what the number is in resamples. Those without a value (NaN) are left out."""
        known = draws_R[np.isfinite(draws_R)]
        if not len(known):
            return Estimate(float(value), float("nan"), float("nan"))
        low, high = np.quantile(known, [0.025, 0.975])
        return Estimate(float(value), float(low), float(high))

    def wider(self, low: float, high: float) -> Estimate:
        """With an interval that holds these bounds too."""
        return Estimate(self.value, min(self.low, low), max(self.high, high))

    def at_least_of_three(self, things: int, least: float, most: float) -> Estimate:
        """With an interval no narrower than the rule of three has it, for means between two bounds.

        Things that are all alike are all alike however they are drawn, yet where none of n is so, up to 3 / n may be.
        Each end lies at least 3 / (n + 1) of the way to its bound; where more than a few things differ the bootstrap's
        is further out and stands.
        """
        part = min(3 / (things + 1), 1)
        low, high = self.value - part * (self.value - least), self.value + part * (most - self.value)
        return Estimate(self.value, min(self.low, low), max(self.high, high))


_T_975 = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131),
    *(2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
)


def student_t(freedom: int) -> float:
    """The .975 quantile of Student's t, to .002."""
    return _T_975[freedom - 1] if freedom <= len(_T_975) else 1.96 + 2.4 / freedom


def resampled_sums(values_PK: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """Sums [R, K] of things drawn again with replacement, P of them each time."""
    rng, P = np.random.default_rng(seed), len(values_PK)
    rows = max(1, _CHUNK // P)
    parts = [
        rng.multinomial(P, np.full(P, 1 / P), size=min(rows, resamples - done)) @ values_PK
        for done in range(0, resamples, rows)
    ]
    return np.concatenate(parts)


def ratio(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a / b, and NaN where b is 0: a resample that drew nothing of a kind says nothing of it."""
    return np.divide(a, b, out=np.full(np.shape(a), np.nan), where=np.asarray(b) > 0)


def bootstrap_interval(sums_P: np.ndarray, tokens_P: np.ndarray, resamples: int, seed: int) -> tuple[float, float]:
    """95 % percentile interval of sum(sums) / sum(tokens) when things are drawn again with replacement."""
    draws_R2 = resampled_sums(np.stack([sums_P, tokens_P], 1), resamples, seed)
    found = Estimate.of(np.nan, draws_R2[:, 0] / np.maximum(draws_R2[:, 1], 1e-9))
    return found.low, found.high
