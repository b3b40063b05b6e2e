"""Scalars in one byte: the right mean, the right order, and the way back."""

from __future__ import annotations

import numpy as np
import pytest

from workers.targets.encoding.scalars import (
    GRIDS,
    PROBABILITIES,
    from_codes,
    probability_codes,
    round_unbiased,
    to_codes,
)

KINDS = ["entropy", "token_logprob"]


@pytest.mark.parametrize("kind", KINDS)
def test_codes_are_bytes_and_come_back(kind: str) -> None:
    grid = GRIDS[kind]
    assert grid[0] == 0 and (np.diff(np.abs(grid)) > 0).all()
    assert to_codes(grid, kind).tolist() == list(range(len(grid)))
    np.testing.assert_array_equal(from_codes(to_codes(grid, kind), kind), grid)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [0.0, 1e-4, 0.03, 0.7, 2.55, 9.9, 13.99])
def test_the_mean_of_rounded_values_is_the_value(kind: str, size: float) -> None:
    value, R = np.copysign(size, GRIDS[kind][-1]), 20_000
    rounded = round_unbiased(np.full(R, value), kind, np.random.default_rng(0).random(R)).astype(np.float64)
    step = np.ptp(rounded)
    assert abs(rounded.mean() - value) <= 4.5 * step / 2 / np.sqrt(R) + 1e-6
    assert step < 0.05 + 0.06 * size


@pytest.mark.parametrize("kind", KINDS)
def test_what_lies_beyond_the_grid_is_its_end(kind: str) -> None:
    end = GRIDS[kind][-1]
    assert round_unbiased(np.array([end * 3, -np.inf * np.sign(-end)]), kind, np.zeros(2)).tolist() == [end, end]


def test_probabilities_are_rounded_without_bias_over_fourteen_decades() -> None:
    """The mean of many roundings is the probability, to the noise of a coin between two neighbours."""
    p = np.array([1.0, 0.99999, 0.73, 0.25, 1e-3, 3e-7, 2e-12, 1.2e-14, 4e-15, 0.0])
    n = 40_000
    uniforms = (np.arange(n) + 0.5) / n
    codes = np.stack([probability_codes(np.full(n, x), uniforms) for x in p])
    found = PROBABILITIES[codes]
    assert codes.dtype == np.uint16
    spread = found.max(1) - found.min(1)
    assert (np.abs(found.mean(1) - p) <= spread / n).all()
    assert (found[0] == 1).all() and (found[-1] == 0).all()
    usual = slice(1, 7)
    assert (np.abs(found[usual] / p[usual, None] - 1) < 5e-4).all()
