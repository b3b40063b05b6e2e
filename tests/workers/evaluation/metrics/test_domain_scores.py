"""Scores worked out by hand, and intervals that hold what they promise."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np
import pytest

from workers.evaluation.heldout import sums
from workers.evaluation.heldout.sums import SUMMED, TEMPERATURES, TokenScores, from_bytes, sums_of, to_bytes
from workers.evaluation.heldout.truth import truth_kls
from workers.evaluation.metrics.domain_scores import (
    DomainScores,
    by_domain,
    calibration,
    curve,
    paired_differences,
    summarise,
)
from workers.evaluation.metrics.resampling import bootstrap_interval
from workers.targets.reader import TargetRow


def tokens(kl: list[float] | np.ndarray, **fields: Any) -> TokenScores:
    """Of which nothing matters but what is given."""
    T = len(kl)
    zeros = {n: np.zeros(T) for n in (*SUMMED, "position")}
    unknown = {n: np.full(T, np.nan) for n in ("truth_kl", "truth_teacher_kl")}
    own = {n: np.array(v, float) for n, v in fields.items()}
    tempered = {"tempered_kl": np.zeros((T, len(TEMPERATURES)))}
    return TokenScores(**(zeros | unknown | tempered | own | {"kl": np.array(kl, float)}))


def texts_of(scores: TokenScores, prompt: list[int] | np.ndarray) -> list[tuple[str, TokenScores]]:
    """Positions as texts, one of each prompt."""
    prompt = np.array(prompt)
    names = [f.name for f in fields(TokenScores)]
    return [
        (f"p{p}", TokenScores(**{n: getattr(scores, n)[prompt == p] for n in names})) for p in dict.fromkeys(prompt)
    ]


def scores(kl: list[float] | np.ndarray, prompt: list[int] | np.ndarray, **own: Any) -> DomainScores:
    """The scores of one unit of a domain."""
    return by_domain([sums_of("a", texts_of(tokens(kl, **own), prompt))])["a"]


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
    found = scores([1, 2, 3, 10], [7, 7, 7, 2])
    assert found.prompts == ["p7", "p2"]
    assert found.by_prompt["kl"].tolist() == [6, 10] and found.by_prompt["tokens"].tolist() == [3, 1]
    assert summarise(scores([1, 2, 3, 10], [7, 7, 7, 2]), 200, 0)["kl"] == 4


# Units ------------------------------------------------------------------------------------------------------


def random_tokens(T: int, seed: int = 0) -> TokenScores:
    rng = np.random.default_rng(seed)
    values = {f.name: rng.random(T) for f in fields(TokenScores)}
    own = {"position": rng.integers(0, 500, T), "entropy": rng.gamma(2, 1, T)}
    return TokenScores(**values | own | {"tempered_kl": rng.random((T, len(TEMPERATURES)))})


def plain(found: TokenScores) -> dict[str, float]:
    """Means and calibration error over all positions at once, which no sum stands for."""
    order = np.argsort(found.confidence, kind="stable")
    parts = np.array_split(order, 15)
    gaps = [len(p) * abs(found.confidence[p].mean() - found.teacher_at_top[p].mean()) for p in parts]
    return {
        "kl": found.kl.mean(),
        "top1_agreement": found.agree.mean(),
        "perplexity": np.exp(found.nll.mean()),
        "ece_teacher": sum(gaps) / len(order),
        "overconfidence_gap": (found.confidence - found.teacher_at_top).mean(),
        "reverse_kl": found.reverse_kl.mean(),
        "acceptance": 1 - found.tv.mean(),
        "top16_overlap": found.overlap.mean(),
        "top16_mass": found.overlap_mass.mean(),
        "truth_excess_kl": (found.truth_kl - found.truth_teacher_kl).mean(),
    }


@pytest.mark.parametrize("units", [1, 2, 7])
def test_units_add_up_to_what_all_positions_give(units: int) -> None:
    """Also the calibration error, whose bins go across units: a unit of few positions keeps them apart."""
    found, prompt = random_tokens(3000), np.arange(3000) // 30
    texts = texts_of(found, prompt)
    size = -(-len(texts) // units)
    tables = [from_bytes(to_bytes(sums_of("a", texts[i : i + size]))) for i in range(0, len(texts), size)]
    summary = summarise(by_domain(tables)["a"], 200, 0)
    for name, value in plain(found).items():
        assert summary[name] == pytest.approx(value, rel=1e-10), name  # float64 sums of 3,000 numbers
    one = summarise(by_domain([sums_of("a", texts)])["a"], 200, 0)
    assert (summary["kl_low"], summary["kl_high"]) == pytest.approx((one["kl_low"], one["kl_high"]), rel=1e-10)


def test_bins_of_a_large_unit_are_bounded_and_their_error_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sums, "MOST_CONFIDENCE_BINS", 200)
    found = random_tokens(9000)
    table = sums_of("a", texts_of(found, np.arange(9000) // 300))
    assert table.num_rows < 200 + 30 + sums.MOST_ENTROPY_BINS + 10
    # Each of 14 borders may share out a bin of 45 positions wrongly, by as much as 1 each.
    error = summarise(by_domain([table])["a"], 200, 0)["ece_teacher"]
    assert error == pytest.approx(plain(found)["ece_teacher"], abs=14 * 45 / 9000)


def test_curves_are_means_by_bin() -> None:
    found = random_tokens(2000)
    scored = by_domain([sums_of("a", texts_of(found, np.arange(2000) // 100))])["a"]
    points = curve(scored, "entropy")
    assert sum(p["tokens"] for p in points) == 2000 and [p["at"] for p in points] == sorted(p["at"] for p in points)
    for point in points[:-1]:
        inside = (found.entropy >= point["at"]) & (found.entropy < point["at"] + sums.ENTROPY_BIN)
        assert point["tokens"] == inside.sum() and point["kl"] == pytest.approx(found.kl[inside].mean())
    at = [p["at"] for p in curve(scored, "position")]
    assert at == [0, 1, 3, 7, 15, 31, 63, 127, 255]
    third = curve(scored, "position")[2]
    inside = (found.position >= 3) & (found.position < 7)
    assert third["tokens"] == inside.sum() and third["top1_agreement"] == pytest.approx(found.agree[inside].mean())


def test_domains_are_told_apart_and_an_empty_one_is_left_out() -> None:
    tables = [sums_of("a", texts_of(tokens([0.5]), [0])), sums_of("b", texts_of(tokens([0.25]), [1])), sums_of("c", [])]
    assert {d: s.by_prompt["kl"].tolist() for d, s in by_domain(tables).items()} == {"a": [0.5], "b": [0.25]}


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


def test_a_paired_differences_is_sharper_than_two_intervals() -> None:
    """Two models whose scores rise and fall together, one better by 0.05 everywhere."""
    rng = np.random.default_rng(4)
    prompt = np.repeat(np.arange(40), 10)
    hard = np.repeat(rng.gamma(2, 0.5, 40), 10)
    a = scores(hard + 0.05 + rng.normal(0, 0.01, 400), prompt)
    b = scores(hard + rng.normal(0, 0.01, 400), prompt)
    found = paired_differences(a, b, 500, 0)["kl"]
    assert found.value == pytest.approx(0.05, abs=0.005)
    assert found.low < found.value < found.high and found.low > 0.04
    assert found.high - found.low < 0.1 * (summarise(a, 500, 0)["kl_high"] - summarise(a, 500, 0)["kl_low"])
    back = paired_differences(b, a, 500, 0)["kl"]
    assert back.value == -found.value


def test_every_difference_is_that_of_the_means() -> None:
    a, b = scores([0.1, 0.4, 0.2], [0, 0, 1]), scores([0.3, 0.1, 0.5], [0, 0, 1])
    own, other = (summarise(s, 200, 0) | calibration(s, 200, 0) for s in (a, b))
    for name, found in paired_differences(a, b, 200, 0).items():
        assert found.value == pytest.approx(own[name] - other[name], abs=1e-12), name
        assert found.low <= found.value <= found.high


@pytest.mark.parametrize(
    "other", [([0.1, 0.2], [0, 0]), ([0.1, 0.2, 0.3], [0, 1, 1]), ([0.1, 0.2, 0.3, 0.4], [0, 0, 1, 1])]
)
def test_scores_of_other_positions_are_not_paired(other: tuple[list[float], list[int]]) -> None:
    with pytest.raises(ValueError, match="same positions"):
        paired_differences(scores([0.1, 0.2, 0.3], [0, 0, 1]), scores(*other), 200, 0)


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
