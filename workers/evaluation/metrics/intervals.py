"""Intervals over prompts by the bootstrap.

Legend: P prompts.
"""

from __future__ import annotations

import numpy as np


def bootstrap_interval(sums_P: np.ndarray, tokens_P: np.ndarray, resamples: int, seed: int) -> tuple[float, float]:
    """95 % percentile interval of sum(sums) / sum(tokens) when prompts are drawn again with replacement."""
    rng = np.random.default_rng(seed)
    P = len(sums_P)
    drawn = rng.multinomial(P, np.full(P, 1 / P), size=resamples)
    means = (drawn @ sums_P) / np.maximum(drawn @ tokens_P, 1e-9)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)
