"""Where specialists tend to: read off a course that is known, beside a generalist's on the same texts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from support.small_configuration import clinic

from orchestrator.config.loading import validate
from orchestrator.config.schema import RunConfig
from orchestrator.config.students import GENERALIST, milestone_name, milestones_of, split_milestone
from orchestrator.reporting.measures.capacity import capacity_reports
from workers.evaluation.cost import Speed
from workers.evaluation.heldout.sums import SUMMED
from workers.evaluation.metrics.domain_scores import DomainScores

P = 80


def config(**evaluate: Any) -> RunConfig:
    data = clinic().model_dump()
    data["evaluate"] = {"floor": {"points": 6, "first": 0.05}, "baselines": ["initial", "generalist"], **evaluate}
    return validate(data)


def scores(kl: float, seed: int = 0) -> DomainScores:
    """Texts of unlike length and difficulty, whose mean KL is as given."""
    rng = np.random.default_rng(7)
    tokens_P, hard_P = rng.integers(40, 160, P).astype(float), rng.gamma(16, 1 / 16, P)
    sums_P = tokens_P * kl * hard_P * (1 + np.random.default_rng(seed).normal(0, 0.01, P))
    sums_P *= kl * tokens_P.sum() / sums_P.sum()
    by_prompt = {n: np.zeros(P) for n in SUMMED} | {"kl": sums_P, "tokens": tokens_P}
    return DomainScores([f"p{i}" for i in range(P)], by_prompt, np.zeros((0, 4)), {})


def course(made: RunConfig, share: float, floor: float) -> dict[int, dict[str, DomainScores]]:
    """KL = floor + 20 D^-.5 of the domain's tokens D."""
    tokens = milestones_of(made, made.specialists["medical"])
    return {t: {"medical": scores(floor + 20 * (share * t) ** -0.5, seed=t % 97)} for t in tokens}


def test_a_milestones_name_says_whose_and_when() -> None:
    assert split_milestone(milestone_name("medical.hard_labels", 1234)) == ("medical.hard_labels", 1234)
    assert (
        split_milestone("medical") is split_milestone("medical.after-all") is split_milestone("medical.initial") is None
    )


def test_milestones_end_where_the_rate_begins_to_fall() -> None:
    made = config()
    train = made.specialists["medical"].train
    tokens = milestones_of(made, made.specialists["medical"])
    assert len(tokens) == 6 and tokens[0] == round(0.05 * train.tokens)
    assert train.schedule == "wsd" and tokens[-1] == round(train.tokens * (1 - train.decay))
    ratios = np.diff(np.log(tokens))
    np.testing.assert_allclose(ratios, ratios[0], atol=2 / tokens[0])  # tokens are whole
    assert milestones_of(config(floor=None), made.specialists["medical"]) == ()


def test_the_floor_of_a_known_course_and_of_its_generalist() -> None:
    made = config()
    domains = len({d for n in made.specialists for d in made.mix_of(n)})
    share = made.mix_of("medical")["medical"]
    milestones = {"medical": course(made, share, 0.2), GENERALIST: course(made, 1 / domains, 0.3)}
    before = {"medical.initial": {"medical": scores(2.0)}}
    found = capacity_reports(made, before, milestones, {})["medical"]
    # The curve is exact but for a float's rounding: least squares find it.
    assert found.floor == pytest.approx(0.2, abs=1e-3) and found.exponent == pytest.approx(0.5, abs=0.01)
    assert found.floor_low <= 0.2 + 1e-3 and found.floor_high >= 0.2 - 1e-3  # type: ignore[operator]
    assert (found.kl0, found.light, found.verdict) == (pytest.approx(2.0), "red", "data-bound")
    assert [p.tokens for p in found.points] == [round(share * t) for t in milestones["medical"]]
    assert found.generalist is not None and found.generalist.difference == pytest.approx(0.1, abs=2e-3)
    assert found.generalist.difference_low > 0 and "lower than the generalist's" in found.generalist.sentence


def test_without_a_generalist_or_enough_models_less_is_said() -> None:
    made = config()
    whole = course(made, made.mix_of("medical")["medical"], 0.2)
    before = {"medical.initial": {"medical": scores(0.5)}}
    found = capacity_reports(made, before, {"medical": whole}, {})["medical"]
    assert found.generalist is None and found.verdict == "capacity-bound"
    few = capacity_reports(made, before, {"medical": dict(list(whole.items())[:3])}, {})["medical"]
    assert few.floor is None and few.verdict == "undecided" and "3 checkpoints" in few.advice
    assert capacity_reports(made, {}, {"medical": whole}, {}) == {}


def test_without_models_on_the_way_there_is_the_first_kl_and_the_size() -> None:
    made, before = config(floor=None), {"medical.initial": {"medical": scores(0.1)}}
    teacher = speed(1_000_000, active=400_000)
    [found] = capacity_reports(made, before, {}, {"teacher": teacher, "medical": speed(20_000)}).values()
    assert (found.kl0, found.light, found.floor, found.verdict) == (pytest.approx(0.1), "amber", None, "not measured")
    assert found.size is not None and found.size.ratio == 0.05 and not found.size.enough
    [strict] = capacity_reports(config(floor=None, first_kl={"green": 0.01, "red": 0.05}), before, {}, {}).values()
    assert (strict.light, strict.size) == ("red", None)


def speed(parameters: int, active: int | None = None) -> Speed:
    return Speed(parameters, active or parameters, 4 * parameters, 2 * parameters, 8, 1, 8, 1.0, 1.0, "cpu")
