"""What models cost, by hand: dollars, how many times less, and each specialist's part of the teacher's work."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from support.measured_run import clinic

from orchestrator.config.loading import validate
from orchestrator.config.schema import RunConfig
from orchestrator.reporting.measures.costs import cost_of, student_cost, teacher_seconds
from workers.evaluation.cost import Speed, dollars_per_million

SMALL = Speed(1000, 1000, 2000, 1800, 16, 8, 32, 5.0, 500.0, "NVIDIA H100 80GB HBM3")
LARGE = replace(SMALL, parameters=30_000, active_parameters=3000, weight_bytes=60_000, flops_per_token=5400)
LARGE = replace(LARGE, tokens_per_s=100.0)


def config(**changes: Any) -> RunConfig:
    """The clinic's, with prices."""
    prices = {"h100": 3.6, "H100 80GB": 1.8, "cpu": 9}
    return validate(clinic().model_dump() | {"evaluate": {"cost": {"dollars_per_hour": prices}}} | changes)


def test_dollars_are_those_of_the_longest_name_that_fits() -> None:
    """1.8 dollars an hour are .0005 a second, for 500 tokens: 1 dollar a million."""
    assert dollars_per_million(SMALL, {"h100": 3.6, "H100 80GB": 1.8, "cpu": 9}) == pytest.approx(1.0)
    assert dollars_per_million(SMALL, {"h100": 3.6}) == pytest.approx(2.0)
    assert dollars_per_million(SMALL, {"A100": 1}) is None


def test_a_specialist_beside_its_teacher() -> None:
    made = config()
    found = student_cost(made, "medical", {"medical": SMALL, "teacher": LARGE}, {})
    assert found is not None
    assert (found.times_fewer_parameters, found.times_fewer_bytes) == (30, 30)
    assert (found.times_fewer_flops, found.times_faster, found.times_cheaper) == (3, 5, pytest.approx(5))
    assert (found.bytes, found.dollars_per_million, found.target) == (2000, pytest.approx(1.0), 10)
    elsewhere = {"medical": replace(SMALL, device="cpu, 2 threads"), "teacher": LARGE}
    other = student_cost(made, "medical", elsewhere, {})
    assert other is not None and other.times_faster is None and other.times_fewer_flops == 3
    alone = student_cost(made, "medical", {"medical": SMALL}, {})
    assert alone is not None and alone.times_fewer_flops is None
    assert student_cost(made, "medical", {"teacher": LARGE}, {}) is None
    assert cost_of(LARGE, made).active_parameters == 3000


def test_the_teachers_seconds_go_to_those_who_take_its_tokens() -> None:
    specialists = clinic().model_dump()["specialists"]
    medical, legal = (dict(specialists["medical"]) for _ in range(2))
    medical |= {"mix": {"medical": 0.5, "legal": 0.5}, "train": {"tokens": 1000, "batch_tokens": 100}}
    legal |= {"mix": {"legal": 1.0}, "train": {"tokens": 1500, "batch_tokens": 100}}
    made = config(specialists={"medical": medical, "legal": legal})
    found = teacher_seconds(made, {"medical": 60.0, "legal": 40.0, "nobody": 7.0})
    assert found == {"medical": pytest.approx(60 + 40 * 500 / 2000), "legal": pytest.approx(30)}
