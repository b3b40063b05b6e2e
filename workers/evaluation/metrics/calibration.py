"""How well probabilities are what they say.

Legend: G groups of positions by rising confidence, B bins of equal mass, C columns.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

BINS = 15
"""Equal-mass bins of the calibration error (Guo et al. 2017 with adaptive bins)."""

CALIBRATED = ("tokens", "confidence", "teacher_at_top", "hit")
"""Columns of the sums of a group or bin."""


def in_bins(sums_GC: np.ndarray, bins: int = BINS) -> np.ndarray:
    """Sums [B, C] by bins of as equally many tokens as whole numbers allow, of groups that are ordered by confidence.

    A group that lies across the border of two bins is shared out between them in proportion.
    """
    running = np.concatenate([np.zeros((1, sums_GC.shape[1])), np.cumsum(sums_GC, 0)])
    tokens = int(running[-1, 0])
    least, more = divmod(tokens, min(bins, tokens))
    borders = [b * least + min(b, more) for b in range(min(bins, tokens) + 1)]
    columns = [np.diff(np.interp(borders, running[:, 0], running[:, c])) for c in range(sums_GC.shape[1])]
    return np.stack(columns, 1)


def calibration_error(sums_BC: np.ndarray, target: str = "teacher_at_top") -> float:
    """Expected calibration error: the mean distance of confidence and target in bins of equal mass.

    The target is the teacher's probability of the model's most probable token, or how often the text has that token
    (`hit`).
    """
    distances_B = np.abs(sums_BC[:, CALIBRATED.index("confidence")] - sums_BC[:, CALIBRATED.index(target)])
    return float(distances_B.sum() / sums_BC[:, 0].sum())


def error_by_chance(sums_BC: np.ndarray, resamples: int, seed: int) -> float:
    """What the calibration error to the text stays below 95 % of the time if the model is calibrated: hits are then
    draws with its confidence, and their number in a bin is about binomial."""
    rng = np.random.default_rng(seed)
    tokens_B = np.rint(sums_BC[:, 0]).astype(np.int64)
    confidence_B = np.clip(sums_BC[:, 1] / sums_BC[:, 0], 0, 1)
    hits_RB = rng.binomial(tokens_B, confidence_B, size=(resamples, len(tokens_B)))
    errors_R = np.abs(hits_RB - tokens_B * confidence_B).sum(1) / tokens_B.sum()
    return float(np.quantile(errors_R, 0.95))


def best_temperature(temperatures: Sequence[float], kl: Sequence[float]) -> tuple[float, float]:
    """The temperature at which KL is least, and that KL: a parabola in log T through the least one and its neighbours.

    At the end of the range the temperature is that end.
    """
    order = np.argsort(temperatures)
    x, y = np.log(np.array(temperatures)[order]), np.array(kl)[order]
    i = int(y.argmin())
    if i in (0, len(x) - 1):
        return float(np.exp(x[i])), float(y[i])
    a, b, c = np.polyfit(x[i - 1 : i + 2] - x[i], y[i - 1 : i + 2], 2)
    if a <= 0:
        return float(np.exp(x[i])), float(y[i])
    return float(np.exp(x[i] - b / (2 * a))), float(min(c - b * b / (4 * a), y[i]))
