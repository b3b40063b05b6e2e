"""Calibration: known gaps are found, chance is told from error, and a temperature is found again."""

from __future__ import annotations

import numpy as np
import pytest

from workers.evaluation.heldout.sums import TEMPERATURES
from workers.evaluation.metrics.calibration import (
    best_temperature,
    calibration_error,
    error_by_chance,
    in_bins,
)


def bins_of(confidence: np.ndarray, target: np.ndarray, bins: int = 15) -> np.ndarray:
    """Of positions one by one; the target is the teacher's probability and the text too."""
    order = np.argsort(confidence, kind="stable")
    return in_bins(np.stack([np.ones(len(order)), confidence[order], target[order], target[order]], 1), bins)


def error(confidence: np.ndarray, target: np.ndarray, bins: int = 15) -> float:
    return calibration_error(bins_of(confidence, target, bins), "hit")


def test_calibrated_confidence_has_no_error() -> None:
    confidence = np.random.default_rng(0).random(30_000)
    assert error(confidence, confidence) == 0


@pytest.mark.parametrize("tokens", [1_000, 30_000])
def test_the_error_of_a_calibrated_model_is_that_of_chance(tokens: int) -> None:
    """Hits that are draws with the confidence: 95 of 100 times below the bound, which falls with the square root."""
    rng, trials, below = np.random.default_rng(0), 300, 0
    for trial in range(trials):
        confidence = rng.random(tokens)
        found = bins_of(confidence, (rng.random(tokens) < confidence).astype(float))
        below += calibration_error(found, "hit") <= error_by_chance(found, 200, trial)
    # Three standard deviations of 300 such draws, and one of a quantile of 200.
    assert 0.95 - 3 * np.sqrt(0.95 * 0.05 / trials) - 0.016 <= below / trials
    bound = error_by_chance(found, 2000, 0)
    assert bound == pytest.approx(error_by_chance(bins_of(confidence, confidence), 2000, 1), rel=0.1)
    assert bound * np.sqrt(tokens) == pytest.approx(0.5 * np.sqrt(15), rel=0.6)


def test_a_sharpened_model_is_beyond_chance_and_overconfident() -> None:
    rng = np.random.default_rng(1)
    truth = rng.uniform(0.5, 0.9, 20_000)
    sharper = truth**2 / (truth**2 + (1 - truth) ** 2)
    found = bins_of(sharper, (rng.random(20_000) < truth).astype(float))
    assert calibration_error(found, "hit") == pytest.approx((sharper - truth).mean(), abs=3 / np.sqrt(20_000))
    assert calibration_error(found, "hit") > 3 * error_by_chance(found, 500, 0)


@pytest.mark.parametrize("gap", [0.25, 0.1, -0.1])
def test_a_known_gap_is_the_error(gap: float) -> None:
    rng = np.random.default_rng(1)
    confidence = rng.uniform(0.3, 0.7, 30_000)
    assert error(confidence, confidence - gap) == pytest.approx(abs(gap))
    coins = (rng.random(30_000) < confidence - gap).astype(float)
    assert error(confidence, coins) == pytest.approx(abs(gap), abs=0.015)


def test_opposite_errors_at_different_confidence_do_not_cancel() -> None:
    confidence = np.repeat([0.2, 0.8], 300)
    target = np.repeat([0.4, 0.6], 300)
    assert error(confidence, target, bins=2) == pytest.approx(0.2)
    shuffled = np.random.default_rng(0).permutation(600)
    assert error(confidence[shuffled], target[shuffled], bins=2) == pytest.approx(0.2)


def test_calibration_of_fewer_tokens_than_bins() -> None:
    assert error(np.array([0.9]), np.array([0.4])) == pytest.approx(0.5)


@pytest.mark.parametrize("true", [0.6, 0.95, 1.0, 1.3, 1.8])
def test_the_temperature_that_made_a_model_sharper_is_found(true: float) -> None:
    """KL of t = softmax(z / true) to softmax(z / T): between points of the grid a parabola is off by a few percent."""
    z = np.random.default_rng(0).normal(0, 2, (400, 50))

    def probabilities(T: float) -> np.ndarray:
        e = np.exp(z / T - (z / T).max(-1, keepdims=True))
        return e / e.sum(-1, keepdims=True)

    t, grid = probabilities(true), (*TEMPERATURES, 1.0)
    kl = [float((t * np.log(t / probabilities(T))).sum(-1).mean()) for T in grid]
    found, least = best_temperature(grid, kl)
    assert found == pytest.approx(true, rel=0.04) and least <= min(kl)


def test_a_temperature_beyond_the_range_is_its_end() -> None:
    assert best_temperature((1.0, 0.5, 2.0), (0.2, 0.3, 0.1)) == (pytest.approx(2.0), 0.1)
