"""Entropies and log-probabilities in one byte, rounded without bias.

A value between two steps of a grid becomes the upper one with the probability of its place between them, so that means
over many positions stay exact: rounding down to 1/16 nat would shift a mean KL by .03. Steps are fine near 0 and grow
with the value. Log-probabilities are kept as their negative.
"""

from __future__ import annotations

import numpy as np

_STEPS = 128


def _grid(scale: float, largest: float) -> np.ndarray:
    """Values that grow exponentially from 0; steps are finer below `scale`."""
    return (scale * np.expm1(np.linspace(0, np.log1p(largest / scale), _STEPS))).astype(np.float32)


GRIDS = {"entropy": _grid(0.064, 14.0), "realised": -_grid(0.064, 64.0)}
"""The 128 values of each kind in nats. 14 nats is the entropy of a million ids; what lies beyond the end is cut."""


def round_unbiased(values: np.ndarray, kind: str, uniforms: np.ndarray) -> np.ndarray:
    """Values on the grid (float32), each with the right mean; `uniforms` are numbers in [0, 1)."""
    grid = np.abs(GRIDS[kind]).astype(np.float64)
    size = np.clip(np.abs(values.astype(np.float64)), 0, grid[-1])
    low = np.clip(np.searchsorted(grid, size, side="right") - 1, 0, _STEPS - 2)
    place = (size - grid[low]) / (grid[low + 1] - grid[low])
    return GRIDS[kind][low + (uniforms < place)]


def to_codes(values: np.ndarray, kind: str) -> np.ndarray:
    """The byte of each value of the grid."""
    return np.searchsorted(np.abs(GRIDS[kind]), np.abs(values)).astype(np.uint8)


def from_codes(codes: np.ndarray, kind: str) -> np.ndarray:
    """The inverse of `to_codes`."""
    return GRIDS[kind][codes]
