"""Scalars in one byte: the right mean, the right order, and the way back."""

from __future__ import annotations

import numpy as np
import pytest

from workers.targets.scalars import GRIDS, from_codes, round_unbiased, to_codes

KINDS = ["entropy", "realised"]


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
