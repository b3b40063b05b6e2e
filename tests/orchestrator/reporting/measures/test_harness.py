"""What a report says of tasks of lm-evaluation-harness: scores by one metric, and what is kept of the teacher's."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.measured_run import TIMES, evaluation, measured_run
from support.small_configuration import clinic, small

from orchestrator.config.loading import validate
from orchestrator.config.schema import RunConfig
from orchestrator.config.students import harness_teachers
from orchestrator.render.markdown import markdown
from orchestrator.reporting.measures.harness import harness_reports
from orchestrator.reporting.report import Report, build_report
from workers.evaluation.harness.answers import HarnessAnswers, HarnessMetric, answers_from_bytes, answers_to_bytes

EXAM = "exam"


def config(**settings: Any) -> RunConfig:
    return clinic(evaluate={"harness": {"tasks": [EXAM], **settings}, "bootstrap": 200})


def metric(by_item: Sequence[float], better: bool | None = True) -> HarnessMetric:
    """Of a mean over items."""
    mean = sum(by_item) / len(by_item)
    return HarnessMetric(mean, math.sqrt(mean * (1 - mean) / (len(by_item) - 1)), better, tuple(by_item))


def answered(right: int, **more: HarnessMetric) -> dict[str, HarnessAnswers]:
    """Of 200 items the first ones right, and each second one by another metric."""
    first, other = [float(i < right) for i in range(200)], [float(i % 2) for i in range(200)]
    return {EXAM: HarnessAnswers(200, 3, {"acc": metric(first), "acc_norm": metric(other), **more})}


PERPLEXITY = HarnessMetric(7.5, None, False, None)
ANSWERS = {
    ("teacher", "teacher"): answered(180),
    ("medical", ""): answered(171),
    ("medical.initial", ""): answered(90),
    ("medical.hard_labels", ""): answered(120),
}


def test_scores_and_retention_of_each_model() -> None:
    reports = harness_reports(config(), ANSWERS)
    assert reports.keys() == {"medical"}, "legal was asked nothing"
    found = reports["medical"][EXAM]
    assert (found.metric, found.n, found.fewshot, found.score, found.teacher.score) == ("acc", 200, 3, 0.855, 0.9)
    assert found.stderr == pytest.approx(math.sqrt(0.855 * 0.145 / 199))
    assert found.retention is not None and found.retention.value == pytest.approx(171 / 180)
    # The same items are right and wrong, so what differs is 9 of the teacher's 180: 3 standard errors of that.
    assert 0.9 < found.retention.low < 171 / 180 < found.retention.high < 1
    assert found.teacher.retention is None and found.generalist is None and found.at_control_tokens is None
    assert found.initial is not None and found.initial.retention is not None
    assert found.initial.retention.value == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("wanted", "metric_of"),
    [(None, "acc"), ("acc_norm", "acc_norm"), ("exact_match", "exact_match,strict"), ("word_perplexity", "acc")],
)
def test_the_metric_is_the_one_asked_for_where_a_task_has_it(wanted: str | None, metric_of: str) -> None:
    more = {"exact_match,strict": metric([0.0, 1.0] * 100), "exact_match,loose": metric([1.0, 1.0] * 100)}
    answers = {model: answered(100, **more) for model in ANSWERS}
    assert harness_reports(config(metric=wanted), answers)["medical"][EXAM].metric == metric_of


@pytest.mark.parametrize(
    "own",
    [
        PERPLEXITY,
        metric([0.5, 1.0], better=False),
        HarnessMetric(20.0, 1.0, True, (10.0, 30.0)),
        HarnessMetric(0.5, 0.1, True, None),
    ],
)
def test_what_has_no_retention_has_a_score(own: HarnessMetric) -> None:
    """Less is better, other numbers than from 0 to 1, no mean over items."""
    answers = {model: {EXAM: HarnessAnswers(2, 0, {"own": own})} for model in ANSWERS}
    found = harness_reports(config(), answers)["medical"][EXAM]
    assert found.retention is None and found.score == own.value and found.stderr == own.stderr


def test_a_specialist_is_held_against_the_teacher_of_its_domain() -> None:
    data = small(teachers={"teacher": {"model": "acme/teacher"}, "lawyer": {"model": "acme/lawyer"}})
    del data["teacher"]
    data["prompts"]["legal"], data["specialists"]["legal"] = "l.jsonl", {"model": "acme/student"}
    data["domains"] = {"legal": {"teacher": "lawyer"}}
    data["evaluate"] = {"harness": {"tasks": [EXAM]}, "bootstrap": 200, "models": {"theirs": "x"}}
    two = validate(data)
    assert harness_teachers(two) == {"teacher": ["medical", "theirs"], "lawyer": ["legal"]}
    answers = {
        **ANSWERS,
        ("teacher", "lawyer"): answered(100),
        ("legal", ""): answered(50),
        ("theirs", ""): answered(90),
    }
    reports = harness_reports(two, answers)
    kept = {name: found[EXAM].retention for name, found in reports.items()}
    assert {name: own.value for name, own in kept.items() if own} == {"medical": 0.95, "legal": 0.5, "theirs": 0.5}


def test_files_of_answers_are_read_back() -> None:
    kept = answered(7, perplexity=PERPLEXITY)
    assert answers_from_bytes(answers_to_bytes(kept)) == kept


@pytest.fixture
def report(tmp_path: Path) -> Report:
    found = replace(evaluation(), harness=harness_reports(config(), ANSWERS))
    return build_report(measured_run(tmp_path), config(), found, {}, TIMES)


def test_the_places_that_programs_read(report: Report, tmp_path: Path) -> None:
    own = report.to_dict()["students"]["medical"]["harness"][EXAM]
    assert own.keys() >= {"metric", "score", "stderr", "teacher", "initial", "hard_labels", "retention", "n"}
    assert own["retention"].keys() == {"value", "low", "high"} and own["teacher"]["score"] == 0.9
    assert report.to_dict()["students"]["legal"]["harness"] == {}
    assert Report.from_json(report.to_json()) == report
    later = build_report(measured_run(tmp_path / "later"), config(), None, {}, TIMES)
    later.take_scores(report)
    assert later.students["medical"].harness == report.students["medical"].harness


def test_the_table(report: Report) -> None:
    text = markdown(report)
    section = text[text.index("## Tasks of lm-evaluation-harness") : text.index("## KL by specialist")]
    assert "| **medical** | exam | 0.8550 | 0.0250 | 95.0% (" in section
    assert "| – its teacher | exam | 0.9000 | 0.0213 |  |" in section
    assert "- `medical`, exam: acc of 200 items, 3 examples before each" in section
    rows = [line for line in section.splitlines() if line.startswith("|")]
    assert {row.count("|") for row in rows} == {6}
