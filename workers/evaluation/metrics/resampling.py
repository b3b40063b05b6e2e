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
