"""What a reader sees first of each specialist: whether it passes, why, and what to change."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from support.measured_run import measured_report
from support.pages.full_report import full_report

from orchestrator.render.cards import answer_of, cards_of
from orchestrator.render.markdown import markdown
from orchestrator.render.page.page import report_page
from orchestrator.render.tables import answer_tables
from orchestrator.reporting.measures.tasks import GateReport
from orchestrator.reporting.report import Report
from orchestrator.reporting.verdict import verdict_of


@pytest.fixture
def report(tmp_path: Path) -> Report:
    return full_report(tmp_path)


def gated(report: Report, **changes: object) -> Report:
    """With another gate of the legal specialist."""
    legal = report.students["legal"]
    gate = replace(
        legal.gate or GateReport(passed=False, domain="", threshold=1, retention=0, retention_low=0), **changes
    )
    report.students["legal"] = replace(legal, gate=gate)
    report.verdicts["legal"] = verdict_of("legal", report.students["legal"], None)
    return report


def test_who_passes_who_fails_and_who_did_not_train(report: Report) -> None:
    cards = cards_of(report)
    assert [card.state for card in cards] == ["passed", "failed", "broken"]
    said = answer_of(report, cards)
    assert said.startswith("1 of 2 pass. Passed: medical. Failed: legal. Did not train: code. A specialist passes")
    assert "keeps 80% of its teacher's score" in said
    assert "at least 68.0%; the gate asks for 80.0%" in cards[1].why and "ValueError" in cards[2].why
    assert [value for _, _, value in cards[1].numbers][1] == "78.0%" and cards[2].numbers == []


def test_without_a_gate_nothing_passes(tmp_path: Path) -> None:
    report = measured_report(tmp_path, {})
    assert answer_of(report, cards_of(report)).startswith("No gate is set (`evaluate.gate`)")
    report.students = {}
    assert answer_of(report, cards_of(report)) == "This run trains no specialists."


def test_what_to_change_is_said_once(report: Report) -> None:
    medical = cards_of(report)[0]
    assert medical.change[0].startswith("Data-bound: train on") and "Its answers follow the words." in medical.change
    assert not any("train on" in sentence for _, sentence in medical.sentences)
    assert "before the learning rate falls" in medical.change[0]
    assert "train on" in report.verdicts["medical"].cost


def test_a_share_that_passes_with_an_interval_that_does_not_wants_more_questions(report: Report) -> None:
    """As many as bring the interval's end to the gate: its width falls as one over their root."""
    change = lambda **gate: cards_of(gated(report, **gate))[1].change[0]  # noqa: E731
    assert change(retention=0.82, retention_low=0.78).startswith("Ask about 1,000 questions in place of 250: ")
    raised = change(retention=0.79, retention_low=0.64)
    assert raised.startswith("Raise its score first: the share lies 1.0 points below the gate")
    assert "250 questions tell it only to 15 points; about 2,300 tell it to 5." in raised
    near = change(retention=0.801, retention_low=0.79)
    assert "only 0.1 points above the gate" in near and "only to" not in near
    assert "they do not tell what it keeps" in change(retention_low=float("nan"))


def test_without_a_floor_the_first_kl_advises(report: Report) -> None:
    legal = report.students["legal"]
    assert legal.capacity is not None
    capacity = replace(legal.capacity, floor=None, verdict="not measured", advice="it kept none; `evaluate.floor` says")
    report.students["legal"] = replace(legal, capacity=capacity)
    change = cards_of(report)[1].change
    assert change[1] == "It kept none; `evaluate.floor` says."
    assert change[2].startswith("Its weights began 5.000 nats from the teacher, red. Far: ")


def test_tables_have_the_same_cells_in_both_files(report: Report) -> None:
    tables = answer_tables(report)
    assert list(tables) == ["tasks", "harness", "bridges"]
    text, page = markdown(report), report_page(report, {})
    for table in tables.values():
        assert f"## {table.title}\n" in text and {len(row.cells) + 1 for row in table.rows} == {len(table.head)}
        for row in table.rows:
            assert f"| {row.markdown} | {' | '.join(row.cells)} |" in text
            cells = "".join(f"<td>{cell}</td>" for cell in row.cells)
            assert f'<th scope="row">{row.label}</th>{cells}</tr>' in page
    assert tables["tasks"].head[-1] == "format" and tables["tasks"].rows[0].cells[-1] == "80.0% (70.0% … 90.0%)"


def test_what_was_not_measured_has_no_table(tmp_path: Path) -> None:
    report = measured_report(tmp_path)
    assert answer_tables(report) == {} and 'id="tables"' not in report_page(report, {})
