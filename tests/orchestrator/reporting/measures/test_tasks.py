"""What a report says of tasks: scores, what is kept, and the gate."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from support.measured_run import TIMES, evaluation, measured_run
from support.small_configuration import clinic

from orchestrator.config.loading import dump
from orchestrator.config.schema import RunConfig
from orchestrator.driver import pipeline
from orchestrator.render.closing import print_closing, print_verdicts
from orchestrator.render.markdown import markdown
from orchestrator.render.model_card import model_card
from orchestrator.render.sentences import gate_lines, task_lines
from orchestrator.reporting.measures.tasks import Answered, gate_report, task_reports
from orchestrator.reporting.report import Report, build_report
from workers.evaluation.tasks.items import TaskAnswer, TaskItem

TASKS = {"facts": {"path": "facts.jsonl"}}


def config(retention: float = 0.9) -> RunConfig:
    return clinic(evaluate={"tasks": TASKS, "gate": {"retention": retention}, "bootstrap": 200})


def answered(domain: str, right: Sequence[bool], **item: Any) -> list[Answered]:
    """Answers to items of two choices."""
    found = []
    for number, correct in enumerate(right):
        one = TaskItem(f"{number} {item}", "facts", domain, "p", "choice", ("a", "b"), "a", **item)
        found.append((one, TaskAnswer(one.uid, correct, "a" if correct else "b", 0.75)))
    return found


def first(right: int, of: int = 200) -> list[bool]:
    return [i < right for i in range(of)]


ANSWERS = {
    "teacher": {"medical": answered("medical", first(180)), "legal": answered("legal", first(160))},
    "medical": {"medical": answered("medical", first(171)), "legal": answered("legal", first(80))},
    "medical.initial": {"medical": answered("medical", first(90))},
    "medical.hard_labels": {"medical": answered("medical", first(120))},
}


def test_scores_retention_and_recovery_of_each_model() -> None:
    reports = task_reports(config(), ANSWERS)
    assert reports.keys() == {"medical"}, "legal was asked nothing"
    medical = reports["medical"]["medical"]
    assert (medical.tasks, medical.items, medical.chance) == (("facts",), 200, 0.5)
    assert medical.teacher.score.value == 0.9 and medical.teacher.retention is None
    own = medical.specialist
    assert own.retention and own.corrected_retention and own.recovery
    assert own.retention.value == pytest.approx(171 / 180) and own.retention.low < 171 / 180 < own.retention.high
    assert own.corrected_retention.value == pytest.approx((171 - 100) / (180 - 100))
    assert own.recovery.value == pytest.approx((171 - 90) / (180 - 90))
    assert medical.hard_labels is not None and medical.hard_labels.score.value == 0.6
    assert medical.initial is not None and medical.initial.recovery is None
    assert medical.generalist is None and reports["medical"]["legal"].hard_labels is None


def test_items_that_were_made_of_others_do_not_count() -> None:
    variants = answered("medical", [False] * 200, variant_of="0")
    answers = {m: {"medical": [*by["medical"], *variants]} for m, by in ANSWERS.items()}
    assert task_reports(config(), answers)["medical"]["medical"].specialist.score.value == 171 / 200


@pytest.mark.parametrize(("threshold", "passed"), [(0.3, True), (0.9, False)])
def test_the_gate_is_of_the_worst_domain_of_the_mix(threshold: float, passed: bool) -> None:
    """The medical specialist's mix has legal prompts too."""
    settings = config(threshold)
    gate = gate_report(settings, "medical", task_reports(settings, ANSWERS)["medical"])
    assert gate is not None and (gate.passed, gate.domain, gate.threshold) == (passed, "legal", threshold)
    assert gate.retention == 0.5 and 0.4 < gate.retention_low < 0.5


def test_a_teacher_that_answers_nothing_right_lets_no_gate_pass() -> None:
    none = ANSWERS | {"teacher": {"medical": answered("medical", first(0))}}
    gate = gate_report(config(0.1), "medical", task_reports(config(0.1), none)["medical"])
    assert gate is not None and not gate.passed


def test_without_a_gate_or_items_of_its_domains_there_is_none() -> None:
    reports = task_reports(config(), ANSWERS)["medical"]
    assert gate_report(clinic(), "medical", reports) is None
    assert gate_report(config(), "legal", {"medical": reports["medical"]}) is None


@pytest.fixture
def report(tmp_path: Path) -> Report:
    run = measured_run(tmp_path)
    tasks = task_reports(config(), ANSWERS)
    return build_report(run, config(), replace(evaluation(), tasks=tasks), {}, TIMES)


def test_the_places_that_programs_read(report: Report) -> None:
    medical = report.to_dict()["students"]["medical"]
    assert medical["gate"].keys() == {"passed", "domain", "threshold", "retention", "retention_low"}
    assert medical["gate"]["passed"] is False and report.fails_gate()
    own = medical["tasks"]["medical"]["specialist"]
    assert own.keys() == {"score", "retention", "corrected_retention", "recovery", "overconfidence"}
    assert own["retention"].keys() == {"value", "low", "high"}
    assert report.to_dict()["students"]["legal"]["gate"] is None
    assert Report.from_json(report.to_json()) == report


def test_earlier_scores_are_taken_whole(report: Report, tmp_path: Path) -> None:
    later = build_report(measured_run(tmp_path / "later"), config(), None, {}, TIMES)
    assert later.students["medical"].gate is None
    later.take_scores(report)
    assert later.students["medical"].tasks == report.students["medical"].tasks and later.fails_gate()


def test_a_gate_that_is_not_passed_is_told_in_red(report: Report) -> None:
    [(passed, line)] = gate_lines(report)
    assert not passed and line.startswith("gate FAILED: medical keeps 50.0% of its teacher's score on legal")
    out = Console(record=True, force_terminal=True, width=200, highlight=False, file=io.StringIO())
    print_closing(report, out)
    print_verdicts(report, out)
    text = out.export_text(styles=True)
    assert "\x1b[1;31m✘ medical fails the gate" in text and "the gate asks for 90.0% at the lower end" in text
    assert "medical on 200 items of medical: 85.5% right, teacher 90.0%, hard labels 60.0%, initial 45.0%" in text


def test_the_table_of_tasks(report: Report) -> None:
    text = markdown(report)
    section = text[text.index("## Tasks") : text.index("## KL by specialist")]
    assert "| **medical** | medical | 85.5% (" in section and "| – its teacher | medical | 90.0% (" in section
    assert "guessing gives 50.0%" in section and "- gate FAILED: medical" in section
    rows = [line for line in section.splitlines() if line.startswith("|")]
    assert {row.count("|") for row in rows} == {8}


def test_the_closing_lines_are_of_the_domains_of_a_mix(report: Report) -> None:
    assert len(task_lines(report)) == 2, "medical and legal"
    report.students["medical"] = replace(report.students["medical"], mix={"medical": 1.0, "legal": 0.0})
    [line] = task_lines(report)
    assert line.startswith("medical on 200 items of medical")


def test_the_model_card_says_it_of_its_own_model(report: Report) -> None:
    card = model_card(report, "medical")
    assert "- medical on 200 items of medical: 85.5% right" in card and "- gate FAILED: medical keeps" in card
    assert "## Tasks" not in model_card(report, "legal")


@pytest.mark.parametrize(("threshold", "code"), [(0.3, 0), (0.9, 3)])
def test_a_gate_that_is_not_passed_ends_a_command_with_3(
    threshold: float, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stillhouse: Callable[..., Any]
) -> None:
    settings = config(threshold)
    tasks = task_reports(settings, ANSWERS)
    measured = build_report(measured_run(tmp_path), settings, replace(evaluation(), tasks=tasks), {}, TIMES)
    monkeypatch.setattr(pipeline, "open_session", lambda *_: nullcontext())
    monkeypatch.setattr(pipeline, "measure_and_export", lambda *_, **__: measured)
    (tmp_path / "run.yaml").write_text(dump(clinic()))
    shown = stillhouse("evaluate", tmp_path / "run.yaml")
    assert shown.code == code and ("fails the gate" in shown.out) == (code == 3)
    piped = stillhouse("evaluate", tmp_path / "run.yaml", "--json")
    assert piped.code == code and json.loads(piped.out)["students"]["medical"]["gate"]["passed"] == (code == 0)
    assert ("fails the gate" in piped.err) == (code == 3)


def test_models_that_were_not_trained_here_are_asked_all_domains() -> None:
    made = clinic(evaluate={"tasks": TASKS, "gate": {"retention": 0.9}, "bootstrap": 200, "models": {"theirs": "x"}})
    theirs = {"medical": answered("medical", first(180)), "legal": answered("legal", first(80))}
    reports = task_reports(made, {**ANSWERS, "theirs": theirs})
    assert reports.keys() == {"medical", "theirs"} and reports["theirs"].keys() == {"medical", "legal"}
    gate = gate_report(made, "theirs", reports["theirs"])
    assert gate is not None and not gate.passed and gate.domain == "legal" and gate.retention == pytest.approx(0.5)


def formed(answers: list[Answered], has_form: Sequence[bool | None]) -> list[Answered]:
    return [(item, replace(answer, follows_format=f)) for (item, answer), f in zip(answers, has_form, strict=True)]


def test_a_format_is_told_beside_the_score_and_apart_from_it(tmp_path: Path) -> None:
    """Of 200 items, 100 are of a task with a format."""
    shares = {"teacher": 100, "medical": 90, "medical.hard_labels": 40}
    answers = {
        m: {"medical": formed(ANSWERS[m]["medical"], [i < n if i < 100 else None for i in range(200)])}
        for m, n in shares.items()
    }
    tasks = task_reports(config(), answers)
    found = tasks["medical"]["medical"]
    form, before = found.format, task_reports(config(), ANSWERS)["medical"]["medical"]
    assert form is not None and form.items == 100 and form.initial is None and form.hard_labels is not None
    assert (form.teacher.value, form.specialist.value, form.hard_labels.value) == (1.0, 0.9, 0.4)
    assert form.specialist.low < 0.9 < form.specialist.high and form.teacher.low < 1
    assert (found.specialist, before.format) == (replace(before.specialist, recovery=None), None)
    report = build_report(measured_run(tmp_path), config(), replace(evaluation(), tasks=tasks), {}, TIMES)
    assert Report.from_json(report.to_json()) == report
    text = markdown(report)
    [heads] = [line for line in text.splitlines() if line.endswith("| surer than right | format |")]
    rows = text[text.index(heads) :].split("\n\n")[0].splitlines()
    assert len({line.count("|") for line in rows}) == 1 and "90.0%" in rows[2].split("|")[8]
    assert "90.0% of what it writes has the format, 100.0% of what its teacher writes" in task_lines(report)[0]


def test_without_formats_the_table_has_no_column_of_them(report: Report) -> None:
    assert "| format |" not in markdown(report)
