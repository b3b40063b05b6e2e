"""What a specialist is said to be worth: always four sentences, of what the report has and no more."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from support.measured_run import differences, measured_report

from orchestrator.reporting.measures.capacity import CapacityReport
from orchestrator.reporting.measures.tasks import GateReport, TaskReport, TaskScore
from orchestrator.reporting.scores import Difference, Interval
from orchestrator.reporting.verdict import verdict_of


def interval(value: float, apart: float = 0.05) -> Interval:
    return Interval(value=value, low=value - apart, high=value + apart)


def task_score(score: float, kept: float | None) -> TaskScore:
    retention = None if kept is None else interval(kept)
    return TaskScore(
        score=interval(score),
        retention=retention,
        corrected_retention=retention,
        recovery=None,
        overconfidence=interval(0.1),
    )


def test_what_was_not_measured_is_said_with_the_setting_that_measures_it(tmp_path: Path) -> None:
    report = measured_report(tmp_path)
    near, keeps, trust, cost = report.verdicts["medical"].sentences
    assert report.verdicts["medical"].passed is None
    assert "0.111 nats" in near and "4.444" in near and "97.5%" in near and "0.333" in near
    assert "`evaluate.tasks`" in keeps and "`evaluate.cost: {teacher: true}`" in cost and "teacher" in trust
    assert "failed" in report.verdicts["legal"].near


def test_gate_retention_and_capacity_are_in_it(tmp_path: Path) -> None:
    medical = measured_report(tmp_path).students["medical"]
    task = TaskReport(
        tasks=("facts",),
        items=60,
        chance=0.25,
        teacher=task_score(0.8, None),
        specialist=task_score(0.72, 0.9),
        **dict.fromkeys(("initial", "hard_labels", "at_control_tokens", "generalist")),
    )
    gate = GateReport(passed=False, domain="medical", threshold=0.95, retention=0.9, retention_low=0.85)
    capacity = CapacityReport(
        kl0=4.4, light="red", size=None, floor=0.01, floor_low=0.0, floor_high=0.02, exponent=0.5, remaining=0.1,
        verdict="data-bound", advice="more tokens pay", points=(), generalist=None,
    )  # fmt: skip
    found = verdict_of("medical", replace(medical, tasks={"medical": task}, gate=gate, capacity=capacity), None)
    assert found.passed is False and "FAILS the gate, 95%" in found.keeps
    for number in ("72.0%", "80.0%", "25.0%", "90.0% (85.0% … 95.0%)"):
        assert number in found.keeps
    assert "10.0% surer than right" in found.trust and "data-bound: more tokens pay" in found.cost


@pytest.mark.parametrize(("kl", "words"), [(-0.2, "farther"), (0.2, "nearer"), (0.001, "as far as can be told")])
def test_a_generalist_is_nearer_farther_or_as_near(tmp_path: Path, kl: float, words: str) -> None:
    """The difference is the specialist's KL less the generalist's."""
    medical = measured_report(tmp_path).students["medical"]
    difference = replace(Difference.of(differences()), kl=kl, low=kl - 0.05, high=kl + 0.05)
    assert words in verdict_of("medical", medical, difference).near
