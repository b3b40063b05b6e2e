"""Lights and advice before training; differences of floors whose intervals hold what they promise."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from workers.evaluation.metrics.capacity import (
    floor_difference_of_fits,
    floor_difference_of_seeds,
    floor_difference_of_texts,
    size_advice,
)
from workers.evaluation.metrics.floor import fit_floor_of_texts
from workers.evaluation.metrics.resampling import Estimate, resampled_sums, student_t

TOKENS = np.geomspace(1e4, 1e6, 8)


def test_size_is_advice() -> None:
    small, enough = size_advice(3 * 10**8, 22 * 10**9), size_advice(3 * 10**9, 22 * 10**9)
    assert not small.enough and "1.4%" in small.text and "2,200,000,000 parameters" in small.text
    assert enough.enough and enough.ratio == pytest.approx(3 / 22)
    with pytest.raises(ValueError, match="above 0"):
        size_advice(0, 1)


def sums(floor: float, hard: np.ndarray, tokens: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Sums of texts at checkpoints: a common difficulty, and a student's own noise."""
    kl = floor + 0.2 * (TOKENS / 1e5) ** -0.5
    return tokens * hard * kl[:, None] * (1 + 0.2 * rng.normal(size=(8, len(tokens))))


def test_the_interval_over_texts_holds_the_difference_as_often_as_it_says() -> None:
    """100 repeats, three standard deviations around 95 %; and pairing makes it the narrower."""
    inside, width, apart = 0, 0.0, 0.0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        tokens, hard = rng.integers(40, 160, size=120).astype(float), rng.gamma(16, 1 / 16, size=120)
        mixed, domain = (sums(floor, hard, tokens, rng) for floor in (0.15, 0.10))
        found = floor_difference_of_texts(TOKENS.tolist(), mixed, TOKENS.tolist(), domain, tokens, 200, seed)
        inside += found.difference.low <= 0.05 <= found.difference.high
        width += found.difference.high - found.difference.low
        fits = floor_difference_of_fits(found.mixed, found.domain).difference
        apart += fits.high - fits.low
    assert 88 <= inside <= 100 and width < apart


def test_the_interval_over_seeds_is_students() -> None:
    """10,000 times three seeds: 95 % within three standard deviations, .65 %."""
    rng, inside = np.random.default_rng(0), 0
    for _ in range(10_000):
        mixed, domain = rng.normal(0.2, 0.02, size=3), rng.normal(0.15, 0.01, size=3)
        found = floor_difference_of_seeds(mixed.tolist(), domain.tolist()).difference
        inside += found.low <= 0.05 <= found.high
    assert 9430 <= inside <= 9570
    with pytest.raises(ValueError, match="two seeds"):
        floor_difference_of_seeds([0.1], [0.2])


def test_what_an_interval_says() -> None:
    above = floor_difference_of_fits(Estimate(0.2, 0.19, 0.21), Estimate(0.1, 0.08, 0.13))
    assert above.difference.value == pytest.approx(0.1)
    assert above.difference.low == pytest.approx(0.1 - np.hypot(0.01, 0.03))
    assert above.difference.high == pytest.approx(0.1 + np.hypot(0.01, 0.02))
    assert "lower" in above.verdict
    below = floor_difference_of_fits(above.domain, above.mixed)
    assert "higher" in below.verdict and below.difference.low == pytest.approx(-above.difference.high)
    assert "told apart" in floor_difference_of_fits(above.domain, above.domain).verdict


def test_too_few_checkpoints_are_refused() -> None:
    with pytest.raises(ValueError, match="3 checkpoints"):
        floor_difference_of_texts([1, 2, 3, 4], np.ones((4, 5)), [1, 2, 3], np.ones((3, 5)), np.ones(5), 10, 0)


def test_things_that_are_all_alike_are_not_certain() -> None:
    """None of 59: up to 3 in 60. Where many differ, the bootstrap's interval stands."""
    assert Estimate(0, 0, 0).at_least_of_three(59, 0, 1) == Estimate(0, 0, 0.05)
    assert Estimate(0, 0, 0).at_least_of_three(59, -1, 1) == Estimate(0, -0.05, 0.05)
    assert Estimate(0.5, 0.37, 0.63).at_least_of_three(59, 0, 1) == Estimate(0.5, 0.37, 0.63)
    assert Estimate(1, 1, 1).at_least_of_three(1, 0, 1) == Estimate(1, 0, 1)


def test_students_t() -> None:
    """Falls to the normal quantile; 12.706 is tan(.475 pi), 4.303 is .95 / sqrt(2 x .975 x .025)."""
    values = [student_t(n) for n in (*range(1, 60), 10**6)]
    assert all(a > b for a, b in pairwise(values)) and values[-1] == pytest.approx(1.96, abs=1e-3)
    assert values[0] == pytest.approx(np.tan(0.475 * np.pi), abs=1e-3)
    assert values[1] == pytest.approx(0.95 / (2 * 0.975 * 0.025) ** 0.5, abs=1e-3)


def test_resampled_sums_are_of_as_many_things_as_there_are() -> None:
    """However many fit into memory at a time."""
    values = np.stack([np.ones(1000), np.arange(1000)], 1)
    drawn = resampled_sums(values, 9000, 3)
    assert drawn.shape == (9000, 2) and (drawn[:, 0] == 1000).all()
    sd = values[:, 1].std() * 1000**0.5
    assert abs(drawn[:, 1].mean() - values[:, 1].sum()) < 4 * sd / 9000**0.5
    assert drawn[:, 1].std() == pytest.approx(sd, rel=0.04)


def test_a_course_that_falls_faster_than_any_power_says_so() -> None:
    """As D^-3."""
    rng = np.random.default_rng(0)
    tokens, hard = rng.integers(40, 160, size=60).astype(float), rng.gamma(16, 1 / 16, size=60)
    fast = np.stack([(0.1 + 5 * (1e4 / D) ** 3) * hard * tokens for D in TOKENS])
    slow = np.stack([(0.1 + 20 * D**-0.5) * hard * tokens for D in TOKENS])
    both = TOKENS.tolist()
    found = floor_difference_of_texts(both, slow, both, fast, tokens, 50, 0)
    assert found.too_fast and "faster than any power" in found.verdict
    assert not floor_difference_of_texts(both, slow, both, slow, tokens, 50, 0).too_fast
    assert fit_floor_of_texts(both, fast, tokens, 6 * hard * tokens, 50, 0).verdict == "undecided"


def test_checkpoints_that_lie_off_their_curve_widen_the_intervals() -> None:
    """By noise of training, which moves all texts at once and no draw of texts shows."""
    rng = np.random.default_rng(1)
    tokens, hard = rng.integers(40, 160, size=60).astype(float), rng.gamma(16, 1 / 16, size=60)

    def course(noise: float) -> np.ndarray:
        off = 1 + noise * np.random.default_rng(3).normal(size=len(TOKENS))
        return np.stack([(0.1 + 20 * D**-0.5) * o * hard * tokens for D, o in zip(TOKENS, off, strict=True)])

    both, widths = TOKENS.tolist(), []
    for noise in (0.0, 0.1):
        floor = fit_floor_of_texts(both, course(noise), tokens, 6 * hard * tokens, 50, 0).floor
        assert floor is not None
        apart = floor_difference_of_texts(both, course(noise), both, course(0.0), tokens, 50, 0).difference
        widths.append((floor.high - floor.low, apart.high - apart.low))
    assert widths[1][0] > 3 * widths[0][0] and widths[1][1] > 3 * widths[0][1]


def test_after_equal_tokens_the_curves_are_read_inside_their_points() -> None:
    """The generalist sees a third of the domain's tokens; its curve lies .05 above at any number of them."""
    rng = np.random.default_rng(2)
    tokens, hard = rng.integers(40, 160, size=60).astype(float), rng.gamma(16, 1 / 16, size=60)
    hard *= tokens.sum() / (hard * tokens).sum()
    domain_tokens, mixed_tokens = TOKENS.tolist(), (TOKENS / 3).tolist()
    domain = np.stack([(0.10 + 20 * D**-0.5) * hard * tokens for D in domain_tokens])
    mixed = np.stack([(0.15 + 20 * D**-0.5) * hard * tokens for D in mixed_tokens])
    found = floor_difference_of_texts(mixed_tokens, mixed, domain_tokens, domain, tokens, 100, 0)
    assert found.equal_tokens == max(mixed_tokens)
    d = found.at_equal_tokens
    assert d is not None and d.value == pytest.approx(0.05, abs=1e-3) and d.low <= d.value <= d.high < 0.06
    assert "nearer than a generalist" in found.at_equal_verdict
    far = floor_difference_of_texts((TOKENS / 1e4).tolist(), mixed, domain_tokens, domain, tokens, 20, 0)
    assert far.equal_tokens is None and far.at_equal_verdict == ""
