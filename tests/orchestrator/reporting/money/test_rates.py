"""How fast a run worked, from its report."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from support.measured_run import TIMES, measured_report, measured_run
from support.small_configuration import clinic

from orchestrator.reporting.measures.costs import TrainingCost
from orchestrator.reporting.money.held import Held
from orchestrator.reporting.money.rates import measured
from orchestrator.reporting.report import Report
from orchestrator.reporting.timing import Worked
from orchestrator.runs.folder import RunFolder


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return measured_run(tmp_path / "run")


@pytest.fixture
def report(tmp_path: Path) -> Report:
    """Replicas were held for 25 seconds, of which 10 went to units; `medical` for 50, of which it waited 10."""
    made = measured_report(tmp_path / "report")
    held = Held(students={"medical": {1: 50.0}}, scoring=20.0)
    held.teachers["teacher"] = 25.0
    held.stages |= {"prepare": 4.0, "export": 6.0}
    made.take_timing(Worked(TIMES, {}, held), clinic())
    cost = TrainingCost(tokens=4000, steps=4, seconds=None, parameters=123, flops=None, waited_s=10.0)
    made.trained = {"medical": cost}
    return made


def test_rates_by_hand(run: RunFolder, report: Report) -> None:
    rates = measured(run, report)
    assert rates.teachers == {"teacher": 44.0} and rates.starts == {"teacher": pytest.approx(15)}
    assert rates.students == {"medical": pytest.approx(100)} and rates.parameters["medical"] == 123
    assert (rates.prepare_s, rates.evaluate_s, rates.export_s) == pytest.approx((4, 20, 6))
    assert rates.text_targets == pytest.approx(400 / (10 + 2)), "two texts were rejected"
    assert rates.run == report.run and rates.on.startswith("CPUs (driver: ")


def test_a_student_that_only_waited_has_no_rate(run: RunFolder, report: Report) -> None:
    report.trained["medical"] = replace(report.trained["medical"], waited_s=50.0)
    assert measured(run, report).students == {}


def test_a_report_without_places_is_refused(run: RunFolder, report: Report) -> None:
    report.spent = None
    with pytest.raises(ValueError, match="does not say how long places were held") as refused:
        measured(run, report)
    assert "leave --rates out" in str(refused.value)
