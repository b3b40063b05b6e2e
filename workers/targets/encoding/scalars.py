"""Numbers in one byte or two, rounded without bias.

A value between two steps of a grid becomes the upper one with the probability of its place between them, so that means
over many positions stay exact: rounding down to 1/16 nat would shift a mean KL by .03.

Entropies and log-probabilities (as their negative) take a byte; steps are fine near 0 and grow with the value.
Probabilities that weigh in a loss take two: code c is exp(-c / 2048), steps of .05 % down to 1e-14, and the last is 0.
"""

from __future__ import annotations

import numpy as np

_STEPS = 128


def _grid(scale: float, largest: float) -> np.ndarray:
    """Values that grow exponentially from 0; steps are finer below `scale`."""
    return (scale * np.expm1(np.linspace(0, np.log1p(largest / scale), _STEPS))).astype(np.float32)


GRIDS = {"entropy": _grid(0.064, 14.0), "token_logprob": -_grid(0.064, 64.0)}
"""The 128 values of each kind in nats. 14 nats is the entropy of a million ids; what lies beyond the end is cut."""


def round_unbiased(values: np.ndarray, kind: str, uniforms: np.ndarray) -> np.ndarray:
    """Values on the grid (float32), each with the right mean; `uniforms` are numbers in [0, 1)."""
    grid = np.abs(GRIDS[kind]).astype(np.float64)
    size = np.clip(np.abs(values.astype(np.float64)), 0, grid[-1])
    low = np.clip(np.searchsorted(grid, size, side="right") - 1, 0, _STEPS - 2)
    place = (size - grid[low]) / (grid[low + 1] - grid[low])
    return GRIDS[kind][low + (uniforms < place)]


PROBABILITIES = np.append(np.exp(-np.arange(65535) / 2048), 0.0)
"""The probability of each code, float64."""


def probability_codes(probabilities: np.ndarray, uniforms: np.ndarray) -> np.ndarray:
    """Codes (uint16) whose probabilities have the given ones as their mean; `uniforms` are numbers in [0, 1)."""
    p = np.clip(probabilities.astype(np.float64), 0, 1)
    with np.errstate(divide="ignore"):
        low = np.minimum(np.ceil(-np.log(p) * 2048), 65535).astype(np.int64)
    high = np.maximum(low - 1, 0)
    below, above = PROBABILITIES[low], PROBABILITIES[high]
    place = np.divide(p - below, above - below, out=np.zeros_like(p), where=above > below)
    return np.where(uniforms < place, high, low).astype(np.uint16)


def to_codes(values: np.ndarray, kind: str) -> np.ndarray:
    """The byte of each value of the grid."""
    return np.searchsorted(np.abs(GRIDS[kind]), np.abs(values)).astype(np.uint8)


def from_codes(codes: np.ndarray, kind: str) -> np.ndarray:
    """The inverse of `to_codes`."""
    return GRIDS[kind][codes]
