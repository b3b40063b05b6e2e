"""Scores worked out by hand, and intervals that hold what they promise."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from workers.evaluation.metrics import (
    TokenScores,
    bootstrap_interval,
    calibration_error,
    paired_difference,
    per_prompt,
    summarise,
)
from workers.evaluation.truth import truth_kls
from workers.targets.reader import TargetRow


def scores(kl: list[float] | np.ndarray, prompt: list[int] | np.ndarray, **fields: Any) -> TokenScores:
    T = len(kl)
    zeros = {n: np.zeros(T) for n in ("agree", "nll", "confidence", "teacher_at_top")}
    unknown = {n: np.full(T, np.nan) for n in ("truth_kl", "truth_teacher_kl")}
    own = {n: np.array(v, float) for n, v in fields.items()}
    return TokenScores(prompt=np.array(prompt), kl=np.array(kl, float), **(zeros | unknown | own))


def test_a_summary_by_hand() -> None:
    found = summarise(
        scores(
            [0.1, 0.3, 0.5, 0.7],
            [0, 0, 0, 4],
            agree=[1, 0, 1, 1],
            nll=[np.log(2), np.log(8), np.log(4), np.log(4)],
            confidence=[0.9, 0.8, 0.7, 0.6],
            teacher_at_top=[0.7, 0.9, 0.6, 0.6],
            truth_kl=[0.5, np.nan, 0.9, np.nan],
            truth_teacher_kl=[0.1, np.nan, 0.1, np.nan],
        ),
        200,
        0,
    )
    assert found["kl"] == pytest.approx(0.4)
    assert found["top1_agreement"] == 0.75
    assert found["perplexity"] == pytest.approx(4)
    assert found["overconfidence_gap"] == pytest.approx(0.05)
    assert found["ece_teacher"] == pytest.approx((0.2 + 0.1 + 0.1 + 0) / 4)  # four tokens, four bins
    assert found["truth_excess_kl"] == pytest.approx(0.6)
    assert (found["truth_tokens_skipped"], found["tokens"], found["prompts"]) == (2, 4, 2)
    # Two prompts of means 0.3 (3 tokens) and 0.7 (1 token): every resample lies between.
    assert found["kl_low"] == pytest.approx(0.3) and found["kl_high"] == pytest.approx(0.7)


def test_truth_is_left_out_where_nobody_knows_it() -> None:
    assert not {k for k in summarise(scores([0.1, 0.2], [0, 1]), 200, 0) if k.startswith("truth")}


def test_tokens_are_weighted_equally_not_prompts() -> None:
    sums, tokens = per_prompt(np.array([1.0, 2.0, 3.0, 10.0]), np.array([7, 7, 7, 2]))
    assert sums.tolist() == [10.0, 6.0] and tokens.tolist() == [1.0, 3.0]
    assert summarise(scores([1, 2, 3, 10], [7, 7, 7, 2]), 200, 0)["kl"] == 4


# Calibration ------------------------------------------------------------------------------------------------


def test_calibrated_confidence_has_no_error() -> None:
    rng = np.random.default_rng(0)
    confidence = rng.random(30_000)
    assert calibration_error(confidence, confidence) == 0
    assert calibration_error(confidence, (rng.random(30_000) < confidence).astype(float)) < 0.015


@pytest.mark.parametrize("gap", [0.25, 0.1, -0.1])
def test_a_known_gap_is_the_error(gap: float) -> None:
    rng = np.random.default_rng(1)
    confidence = rng.uniform(0.3, 0.7, 30_000)
    assert calibration_error(confidence, confidence - gap) == pytest.approx(abs(gap))
    coins = (rng.random(30_000) < confidence - gap).astype(float)
    assert calibration_error(confidence, coins) == pytest.approx(abs(gap), abs=0.015)


def test_opposite_errors_at_different_confidence_do_not_cancel() -> None:
    confidence = np.repeat([0.2, 0.8], 300)
    target = np.repeat([0.4, 0.6], 300)
    assert calibration_error(confidence, target, bins=2) == pytest.approx(0.2)
    shuffled = np.random.default_rng(0).permutation(600)
    assert calibration_error(confidence[shuffled], target[shuffled], bins=2) == pytest.approx(0.2)


def test_calibration_of_fewer_tokens_than_bins() -> None:
    assert calibration_error(np.array([0.9]), np.array([0.4])) == pytest.approx(0.5)


# Intervals --------------------------------------------------------------------------------------------------


def test_the_interval_holds_the_true_mean_about_95_times_of_100() -> None:
    """Tokens are alike within a prompt, and prompts differ in length: an interval over tokens would be too short."""
    rng, held, trials, P = np.random.default_rng(2), 0, 400, 60
    for trial in range(trials):
        tokens_P = rng.integers(5, 40, P).astype(float)
        sums_P = tokens_P * (1.0 + rng.normal(0, 0.3, P))
        low, high = bootstrap_interval(sums_P, tokens_P, 400, trial)
        held += low <= 1.0 <= high
    assert 0.91 < held / trials < 0.98


def test_an_interval_is_that_of_its_seed() -> None:
    rng = np.random.default_rng(3)
    sums_P, tokens_P = rng.random(20), np.ones(20)
    assert bootstrap_interval(sums_P, tokens_P, 300, 1) == bootstrap_interval(sums_P, tokens_P, 300, 1)
    assert bootstrap_interval(sums_P, tokens_P, 300, 1) != bootstrap_interval(sums_P, tokens_P, 300, 2)


def test_equal_prompts_have_an_interval_of_no_width() -> None:
    assert bootstrap_interval(np.full(9, 6.0), np.full(9, 3.0), 200, 0) == (pytest.approx(2), pytest.approx(2))


def test_a_paired_difference_is_sharper_than_two_intervals() -> None:
    """Two models whose scores rise and fall together, one better by 0.05 everywhere."""
    rng = np.random.default_rng(4)
    prompt = np.repeat(np.arange(40), 10)
    hard = np.repeat(rng.gamma(2, 0.5, 40), 10)
    a = scores(hard + 0.05 + rng.normal(0, 0.01, 400), prompt)
    b = scores(hard + rng.normal(0, 0.01, 400), prompt)
    found = paired_difference(a, b, 500, 0)
    assert found["kl"] == pytest.approx(0.05, abs=0.005)
    assert found["low"] < found["kl"] < found["high"] and found["low"] > 0.04
    assert found["high"] - found["low"] < 0.1 * (summarise(a, 500, 0)["kl_high"] - summarise(a, 500, 0)["kl_low"])
    back = paired_difference(b, a, 500, 0)
    assert back["kl"] == -found["kl"]


@pytest.mark.parametrize(
    "other", [([0.1, 0.2], [0, 0]), ([0.1, 0.2, 0.3], [0, 1, 1]), ([0.1, 0.2, 0.3, 0.4], [0, 0, 1, 1])]
)
def test_scores_of_other_positions_are_not_paired(other: tuple[list[float], list[int]]) -> None:
    with pytest.raises(ValueError, match="same positions"):
        paired_difference(scores([0.1, 0.2, 0.3], [0, 0, 1]), scores(*other), 200, 0)


# Truth ------------------------------------------------------------------------------------------------------


def target_row(tokens: list[int], start: int) -> TargetRow:
    empty, T = np.zeros(0, np.uint32), len(tokens) - start
    zeros = np.zeros(T, np.float16)
    kept = np.zeros(T, np.uint16)
    return TargetRow("p", np.array(tokens, np.uint32), start, kept, empty, empty, empty, None, zeros, zeros)


def test_kl_to_the_truth_in_closed_form_and_unknown_rows() -> None:
    asked: list[tuple[str, list[int], int]] = []

    def truth(domain: str, ids: list[int], start: int) -> np.ndarray:
        asked.append((domain, ids, start))
        return np.array([[0.5, 0.5, 0.0], [np.nan] * 3, [1.0, 0.0, 0.0]])

    q = np.log(np.array([[0.25, 0.5, 0.25], [0.2, 0.3, 0.5], [0.125, 0.5, 0.375]]))
    t = np.log(np.array([[0.5, 0.25, 0.25], [0.2, 0.3, 0.5], [0.5, 0.25, 0.25]]))
    student, teacher = truth_kls(truth, "code", target_row([4, 5, 6, 7], 1), q, t)
    assert asked == [("code", [4, 5, 6, 7], 1)]
    np.testing.assert_allclose(student, [0.5 * np.log(2), np.nan, np.log(8)])
    np.testing.assert_allclose(teacher, [0.5 * np.log(2), np.nan, np.log(2)])


def test_without_a_truth_nothing_is_known() -> None:
    q = np.log(np.full((2, 3), 1 / 3))
    for found in truth_kls(None, "code", target_row([1, 2, 0], 1), q, q):
        assert found.shape == (2,) and np.isnan(found).all()


def test_an_impossible_token_that_a_model_rules_out_costs_nothing() -> None:
    truth = np.array([[0.5, 0.5, 0.0]])
    with np.errstate(divide="ignore", invalid="ignore"):
        q = np.log(np.array([[0.5, 0.5, 0.0]]))
        student, _ = truth_kls(lambda *_: truth, "code", target_row([1, 2], 1), q, q)
    np.testing.assert_allclose(student, [0.0], atol=1e-12)
