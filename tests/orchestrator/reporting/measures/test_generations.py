"""What a specialist gained and forgot by going on, in the report and in words."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from support.measured_run import TIMES, evaluation, measured_run, score

from orchestrator.render.closing import closing_lines
from orchestrator.render.markdown import markdown
from orchestrator.render.page.page import report_page
from orchestrator.reporting.measures.generations import BeforeAndAfter, GenerationsReport
from orchestrator.reporting.report import Report, build_report
from orchestrator.reporting.scores import Difference, Score
from workers.evaluation.metrics.resampling import Estimate


def changed(before: float, after: float, low: float, high: float) -> BeforeAndAfter:
    names = ("reverse_kl", "acceptance", "nll", "overconfidence", "overconfidence_to_teacher")
    found = dict.fromkeys(names, Estimate(0.0, -0.01, 0.01)) | {"top1_agreement": Estimate(0.05, 0.04, 0.06)}
    difference = Difference.of({**found, "kl": Estimate(after - before, low, high)})
    return BeforeAndAfter(before=Score.of(score(before)), after=Score.of(score(after)), difference=difference)


@pytest.fixture
def report(tmp_path: Path) -> Report:
    run, measured = measured_run(tmp_path), evaluation()
    older = {"1": changed(0.1, 0.15, 0.04, 0.06), "2": changed(0.2, 0.2, -0.01, 0.01)}
    measured.generations = {"medical": GenerationsReport(replay=0.2, new=changed(0.9, 0.3, -0.7, -0.5), older=older)}
    return replace(build_report(run, run.located_config(), measured, {}, TIMES), generation=3)


def test_it_is_said(report: Report) -> None:
    said = "medical, with 20% of its tokens replayed: on new text it gained (KL 0.9000 → 0.3000, -0.6000, -0.7000 … "
    said += "-0.5000); on that of generation 1 it forgot (KL 0.1000 → 0.1500, +0.0500, +0.0400 … +0.0600); on that of "
    said += "generation 2 it neither gained nor forgot (KL 0.2000 → 0.2000, +0.0000, -0.0100 … +0.0100)"
    assert said in closing_lines(report)
    text, page = markdown(report), report_page(report, {})
    for shown in (text, page):
        assert "What specialists gained and forgot" in shown and "+5.0 (+4.0 … +6.0)" in shown and "3, new" in shown
    assert said in text and "# Run `clinic`, generation 3" in text and "<h1>clinic, generation 3</h1>" in page


def test_the_record_is_read_back_and_reports_of_before_have_none(report: Report) -> None:
    assert Report.from_json(report.to_json()) == report
    data = report.to_dict()
    assert data["students"]["legal"]["generations"] is None and data["generation"] == 3
    assert data["students"]["medical"]["generations"]["older"]["1"]["difference"]["kl"] == pytest.approx(0.05)
    del data["generation"]
    for student in data["students"].values():
        del student["generations"]
    old = Report.from_json(data)
    assert old.generation == 1 and old.students["medical"].generations is None
    assert "gained and forgot" not in markdown(old) and "generation" not in old.title


def test_scores_of_an_earlier_report_stay(report: Report, tmp_path: Path) -> None:
    run = measured_run(tmp_path / "other")
    later = build_report(run, run.located_config(), None, {}, TIMES)
    later.take_scores(report)
    assert later.students["medical"].generations == report.students["medical"].generations
