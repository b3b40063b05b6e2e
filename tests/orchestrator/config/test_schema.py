"""What the parts of a configuration must agree on, and what it says of itself: mixes, demand, names, ranges."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from support.small_configuration import put, refused, small

from orchestrator.config.loading import dump, validate
from orchestrator.config.schema import RunConfig


def test_a_mix_becomes_shares_that_sum_to_one() -> None:
    config = validate(small(specialists={"medical": {"model": "m", "mix": {"medical": 3, "legal": 1}}}))
    assert config.mix_of("medical") == {"medical": 0.75, "legal": 0.25}
    assert config.own_domain("medical") == "medical"


def test_without_a_mix_the_domain_of_its_own_name() -> None:
    assert validate(small()).mix_of("medical") == {"medical": 1.0}


def test_demand_adds_up_over_specialists() -> None:
    config = validate(
        small(
            specialists={
                "medical": {"model": "m", "train": {"tokens": 1000}},
                "legal": {"model": "m", "mix": {"legal": 3, "medical": 1}, "train": {"tokens": 400}},
            }
        )
    )
    assert config.demand() == {"medical": 1100, "legal": 300}


@pytest.mark.parametrize(
    "mix",
    [
        {"a": 1, "b": -0.5},
        {"a": 0},
        {"a": float("nan")},
        {"a": -1, "b": -1},
    ],
    ids=["one negative", "all zero", "nan", "all negative"],
)
def test_a_mix_that_makes_no_sense(mix: dict[str, float]) -> None:
    assert refused(put("specialists.medical.mix", mix)).startswith("specialists.medical.mix")


def test_a_source_that_names_no_teacher() -> None:
    message = refused(put("prompts.medical.teacher", "bigger"))
    assert message.startswith("prompts.medical.teacher: 'bigger'") and "['teacher']" in message


@pytest.mark.parametrize("name", ["a/b", "a.hard_labels", "", "a b", "../x"])
def test_names_of_specialists(name: str) -> None:
    assert "letters, digits" in refused(small(specialists={name: {"model": "m", "mix": {"medical": 1}}}))


@pytest.mark.parametrize(("name", "control"), [("generalist",) * 2, ("single_expert",) * 2, ("teacher", "initial")])
def test_a_specialist_must_not_have_the_name_of_what_stands_beside_it(name: str, control: str) -> None:
    """Scores and probe ranks are kept by name: it would take the place of a control, or of the teacher."""
    specialists = {name: {"model": "m", "mix": {"medical": 1}}}
    message = refused(small(specialists=specialists, evaluate={"baselines": [control]}))
    assert message.startswith("specialists: ") and name in message


@pytest.mark.parametrize("scheme", ["full", "hidden"])
def test_what_a_whole_distribution_has_no_use_for(scheme: str) -> None:
    assert "draws nothing" in refused(small(targets={"scheme": scheme, "redraws": 2}))
    assert f"`{scheme}` keeps every one" in refused(small(targets={"scheme": scheme, "always_keep": ["a"]}))
    settings = {"divergence": "jsd", "weighting": "confidence", "ce": 1}
    specialists = {"medical": {"model": "m", "loss": settings}}
    assert validate(small(targets={"scheme": scheme}, specialists=specialists)).targets.scheme == scheme
    message = refused(small(targets={"scheme": "systematic"}, specialists=specialists))
    assert message.startswith("specialists.medical.loss.divergence: jsd") and "`hidden` or `full`" in message


@pytest.mark.parametrize("replicas", [0, [0, 0], [-1, 2], [4, 1]])
def test_replicas_that_make_no_pool(replicas: Any) -> None:
    assert "replicas" in refused(put("teacher.replicas", replicas))


@pytest.mark.parametrize(("key", "value"), [("lr", float("inf")), ("betas", [2, 3]), ("clip", float("inf"))])
def test_settings_of_the_optimiser_that_make_no_sense(key: str, value: Any) -> None:
    assert key in refused(put(f"specialists.medical.train.{key}", value))


def test_a_model_needs_one_source() -> None:
    for model in ({}, {"base": "m", "config": {"model_type": "llama"}}, {"config": {"hidden_size": 8}}):
        assert refused(put("specialists.medical.model", model)).startswith("specialists.medical.model: ")


# Budgets of controls ------------------------------------------------------------------------------------------


def budgets(control_tokens: Any, **train: Any) -> RunConfig:
    own = {"model": "m", "train": {"tokens": 4000} | train}
    return validate(small(specialists={"medical": own}, evaluate={"control_tokens": control_tokens}))


@pytest.mark.parametrize(
    ("written", "tokens"),
    [
        ("10%", 400),
        (0.1, 400),
        ("0.01%", 1),
        ("100%", 4000),
        (1.0, 4000),
        (1, 1),
        (400, 400),
        ("1k", 1000),
        (4000, 4000),
    ],
)
def test_a_control_takes_tokens_or_a_share_of_its_specialists_budget(written: Any, tokens: int) -> None:
    config = budgets(written)
    assert config.control_tokens_of("medical") == tokens and config.control_is_short("medical") == (tokens < 4000)
    assert validate(yaml.safe_load(dump(config))) == config


@pytest.mark.parametrize(("gpus", "tokens"), [(0, 4000), (1, 400), (0.5, 400)])
def test_a_control_of_null_takes_all_on_cpus_and_a_tenth_on_gpus(gpus: float, tokens: int) -> None:
    assert budgets(None, gpus_per_worker=gpus).control_tokens_of("medical") == tokens


def test_a_control_of_more_than_its_specialist_is_refused() -> None:
    own = {
        name: {"model": "m", "mix": {"medical": 1}, "train": {"tokens": n}} for name, n in (("a", 5000), ("b", 4000))
    }
    message = refused(small(specialists=own, evaluate={"control_tokens": 4001}))
    assert message.startswith("evaluate.control_tokens: 4,001 is more than specialists.b.train.tokens, 4,000")
    assert "10%" in message


@pytest.mark.parametrize("written", [0, 0.0, "0%", "101%", 1.5, -1, "0.5", "x%", True, "ten", [1]])
def test_budgets_of_controls_that_are_none(written: Any) -> None:
    assert refused(small(evaluate={"control_tokens": written})).startswith("evaluate.control_tokens: ")


LARGE = {"model": {"config": {"model_type": "qwen3", "hidden_size": 64}}, "loss": {"kl": 0, "ce": 1}}


def test_another_specialist_stands_beside_one_that_it_is_named_for() -> None:
    specialists = {"medical": {"model": "acme/student"}, "large": {**LARGE, "mix": {"medical": 1}}}
    found = validate(small(specialists=specialists, evaluate={"beside": {"medical": ["large"]}}))
    assert found.evaluate.beside == {"medical": ["large"]}
    assert "'medical' is not another specialist" in refused(
        small(specialists=specialists, evaluate={"beside": {"medical": ["medical"]}})
    )
    error = refused(small(specialists=specialists, evaluate={"beside": {"medical": ["larger"]}}))
    assert "evaluate.beside.medical: 'larger' is not another specialist, nor one of evaluate.models" in error
    assert "there are ['large']" in error
    error = refused(small(specialists=specialists, evaluate={"beside": {"legal": ["large"]}}))
    assert "evaluate.beside: 'legal' is no specialist; there are ['large', 'medical']" in error
