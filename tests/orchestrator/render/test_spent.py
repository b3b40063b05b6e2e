"""What a run took, in words, in report.md, in report.html and at a run's end."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.measured_run import TIMES, measured_report
from support.small_configuration import clinic
from support.toys.watched_run import ending, story

from orchestrator.render.closing import closing_lines
from orchestrator.render.markdown import markdown
from orchestrator.render.page.page import report_page
from orchestrator.render.page.pictures import picture_groups
from orchestrator.render.spent import amount_words, node_lines, spent_lines, spent_tables
from orchestrator.reporting.money.held import Held
from orchestrator.reporting.money.nodes import NodesReport, PlacesWanted, RoleNodes
from orchestrator.reporting.money.spent import Amount
from orchestrator.reporting.report import Report
from orchestrator.reporting.timing import Worked

SHARED = {"specialists": {"medical": {}, "legal": {"mix": {"legal": 0.5, "medical": 0.5}}}}


@pytest.fixture
def report(tmp_path: Path) -> Report:
    """One whose two specialists share a domain, at a cent a second of a CPU."""
    held = Held()
    for event in (*story(), *ending()):
        held.take(event)
    held.tokens["legal"] = 400
    made = measured_report(tmp_path)
    made.take_timing(Worked(TIMES, {}, held), clinic(**SHARED, cluster={"prices": {"cpu_hour": 36.0}}))
    return made


def test_amounts_are_told_in_hours_and_dollars() -> None:
    assert amount_words(Amount(cpu_s=1800)) == "0.5 CPU-hours"
    amount = Amount(gpu_s=3600 * 1234, cpu_s=360, dollars=4321.5)
    assert amount_words(amount) == "1,234 GPU-hours, 0.1 CPU-hours, $4,321.50"
    assert amount_words(Amount(cpu_s=3.6, dollars=0.0012)) == "0.001 CPU-hours, $0.0012"


def test_the_report_says_what_each_part_and_each_specialist_took(report: Report) -> None:
    text = markdown(report)
    assert "## What the run took" in text and "| – capture by teacher | – |" in text and "| – export |" in text
    assert "## What each specialist took" in text and "| **medical** |" in text
    saved = next(line for line in spent_lines(report.spent) if "separate runs" in line)
    assert saved.startswith("2 separate runs would take $") and "fan-out saved" in saved
    assert f"- {saved}" in text and saved in closing_lines(report)
    page = report_page(report, {})
    assert "What the run took" in page and saved in page
    assert report.spent is not None and 0 < (report.spent.saved or 0) < 1


def test_it_is_read_back_as_it_was(report: Report) -> None:
    read = Report.from_json(report.to_json())
    assert read.spent == report.spent
    values = report.to_dict()
    keys = {"total", "prepare", "capture", "training", "evaluate", "export", "specialists", "unused", "separate"}
    assert values["spent"].keys() == keys | {"saved", "saved_by"}
    of_one = {"training", "beside", "teacher", "teacher_share", "together", "alone"}
    assert values["spent"]["specialists"]["medical"].keys() == of_one
    assert values["spent"]["total"].keys() == {"gpu_s", "cpu_s", "dollars"}
    del values["spent"]
    assert Report.from_json(values).spent is None, "reports of earlier versions have none"


def test_where_nothing_is_known_nothing_is_said(report: Report) -> None:
    assert spent_lines(None) == [] and spent_tables(None) == {}
    report.take_timing(Worked(TIMES, {}), clinic())
    assert spent_tables(report.spent) == {} and "What the run took" not in markdown(report)


TWO_ROLES = NodesReport(
    seconds=100.0,
    roles={
        "head": RoleNodes(nodes=1, most=1, node_s=100.0, counts=((0.0, 1), (100.0, 0))),
        "teacher": RoleNodes(nodes=3, most=2, node_s=50.0, counts=((10.0, 2), (35.0, 0))),
    },
    wanted={
        "students": PlacesWanted(places=0, longest_s=0.0, spans=((90.0, 100.0),)),
        "teachers": PlacesWanted(places=2, longest_s=12.4, spans=((2.0, 14.4),)),
    },
    node_s=150.0,
    fixed_node_s=300.0,
)


def test_nodes_that_came_and_left_are_a_sentence_and_a_picture(report: Report) -> None:
    assert report.nodes is None and "Nodes that came" not in report_page(report, {}) and node_lines(None) == []
    report.take_timing(Worked(TIMES, {}, nodes=TWO_ROLES), clinic())
    (said,) = node_lines(report.nodes)
    assert said == (
        "nodes: at most 1 head, 2 teacher at once; 150 node-seconds, where as many all the time are 300 node-seconds: "
        "50% less; places were waited for at the longest by teachers 12 s"
    )
    assert said in closing_lines(report) and said[1:] in markdown(report)
    picture = picture_groups(report)["All together"][-1]
    assert said[1:] in picture.caption and "students wait" in picture.svg and "2 teacher: 10 to 35 s" in picture.svg
    assert picture.svg in report_page(report, {})
    read = Report.from_json(report.to_json())
    assert read.nodes == TWO_ROLES


def test_long_runs_are_told_in_hours() -> None:
    (said,) = node_lines(NodesReport(seconds=1e6, roles={}, wanted={}, node_s=2e6, fixed_node_s=4e6))
    assert "555.6 node-hours" in said and "1,111.1 node-hours" in said and "places" not in said
