"""What a report says of bridges: by hand from findings, with intervals, in its places and in words."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
from support.measured_run import TIMES, evaluation, measured_run
from support.small_configuration import clinic, put, refused

from orchestrator.config.schema import RunConfig
from orchestrator.render.markdown import markdown
from orchestrator.render.sentences import bridge_lines
from orchestrator.reporting.measures.bridges import bridges_reports
from orchestrator.reporting.report import Report, build_report
from workers.evaluation.bridges.texts import BridgeFindings


def config() -> RunConfig:
    bridges = {"tasks": {"facts": "facts.jsonl"}, "bridges": {"texts": 4}, "bootstrap": 200}
    return clinic(evaluate=bridges)


def findings(factor: float = 1.0) -> BridgeFindings:
    """Four texts, of which the second has no bridge and the last no token that was changed."""
    return BridgeFindings(
        asked=9,
        texts=4,
        text=[0, 0, 1, 2, 2, 2],
        bridge=[True, False, False, True, True, False],
        kl=[factor * kl for kl in (1.0, 0.1, 0.2, 2.0, 3.0, 0.3)],
        agree=[False, True, True, True, False, True],
        correct=[False, False, False, True],
        repaired=[True, None, True, None],
        repaired_without=[False, None, True, None],
    )


NOTHING = BridgeFindings(3, 0, [], [], [], [], [], [], [])
FOUND = {"medical": {"medical": findings()}, "medical.initial": {"medical": findings(5.0)}}


def test_means_and_shares_with_intervals_over_texts() -> None:
    own = bridges_reports(config(), FOUND)["medical"]
    assert (own.asked, own.texts, own.tokens, own.bridges, own.wrong, own.tried) == (9, 4, 6, 3, 3, 2)
    assert own.kl_at_bridges.value == pytest.approx(2.0) and own.kl_elsewhere.value == pytest.approx(0.2)
    assert own.kl_at_bridges.low == 1.0 and own.kl_at_bridges.high == 2.5, "all of one text, or all of the other"
    assert own.top1_at_bridges.value == pytest.approx(1 / 3) and own.top1_elsewhere.value == 1
    assert own.top1_elsewhere.low == pytest.approx(0.25), "three texts that all agree may be of a kind that do not"
    assert own.repaired and own.repaired_without and own.repaired_by_token
    assert (own.repaired.value, own.repaired_without.value, own.repaired_by_token.value) == (1.0, 0.5, 0.5)
    assert own.repaired_by_token.low < 0 < own.repaired_by_token.high == 1
    assert own.initial is not None and own.initial.kl_at_bridges.value == pytest.approx(10.0)
    assert own.hard_labels is None


def test_one_text_alone_has_no_interval() -> None:
    one = replace(findings(), texts=1, text=[0] * 6, correct=[True], repaired=[None], repaired_without=[None])
    own = bridges_reports(config(), {"medical": {"medical": one}})["medical"]
    assert own.kl_at_bridges.value == pytest.approx(2.0) and math.isnan(own.kl_at_bridges.low)
    assert (own.top1_at_bridges.low, own.top1_at_bridges.high) == (0, 1), "of one text nothing is known"


def test_domains_of_a_model_are_put_together() -> None:
    both = bridges_reports(config(), {"legal": {"legal": findings(), "medical": findings(3.0)}})["legal"]
    assert (both.texts, both.tokens, both.bridges) == (8, 12, 6) and both.kl_at_bridges.value == pytest.approx(4.0)
    assert both.kl_at_bridges.high > 5, "texts of both are drawn"


def report_of(folder: Path, found: dict[str, dict[str, BridgeFindings]]) -> Report:
    made = replace(evaluation(), bridges=bridges_reports(config(), found))
    return build_report(measured_run(folder), config(), made, {}, TIMES)


def test_the_places_that_programs_read_and_what_people_read(tmp_path: Path) -> None:
    report = report_of(tmp_path, FOUND)
    medical = report.to_dict()["students"]["medical"]["bridges"]
    asked = {"tokens", "bridges", "kl_at_bridges", "kl_elsewhere", "top1_at_bridges", "top1_elsewhere"}
    assert medical.keys() >= asked | {"repaired", "repaired_without", "wrong", "initial", "hard_labels"}
    assert medical["kl_at_bridges"].keys() == {"value", "low", "high"}
    assert report.to_dict()["students"]["legal"]["bridges"] is None
    assert Report.from_json(report.to_json()) == report
    later = build_report(measured_run(tmp_path / "later"), config(), None, {}, TIMES)
    later.take_scores(report)
    assert later.students["medical"].bridges == report.students["medical"].bridges
    text = markdown(report)
    table = text[text.index("| model | KL at bridges |") :].split("\n\n")[0].splitlines()
    assert len(table) == 4 and len({line.count("|") for line in table}) == 1
    assert "| 2.0000 (1.0000 … 2.5000) | 0.2000 (" in table[2] and "initial weights | 10.0000" in table[3]
    [line] = bridge_lines(report)
    assert "6 tokens in 4 right answers" in line and "3 were bridges" in line and "10 times that elsewhere" in line
    assert "of 2 questions" in line and "repairs 50.0%, with the teacher's token there 100.0%" in line


def test_where_nothing_could_be_changed_it_says_so(tmp_path: Path) -> None:
    report = report_of(tmp_path, {"medical": {"medical": NOTHING}})
    own = report.to_dict()["students"]["medical"]["bridges"]
    assert own["tokens"] == 0 and own["kl_at_bridges"] == {"value": None, "low": None, "high": None}
    assert own["repaired"] is None and "of 3 items" in bridge_lines(report)[0]
    assert Report.from_json(report.to_json()).students["medical"].bridges is not None
    assert "## Where answers hang on a token" in markdown(report)
    unasked = {"medical": {"medical": replace(NOTHING, asked=0)}}
    assert "hang on a token" not in markdown(report_of(tmp_path / "other", unasked))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"sure": 1.5}, "evaluate.bridges.sure"),
        ({"texts": 0}, "evaluate.bridges.texts"),
        ({"position": 3}, "evaluate.bridges.position: unknown key; did you mean 'positions'"),
    ],
)
def test_bad_settings_are_named(settings: dict[str, float], said: str) -> None:
    assert said in refused(put("evaluate.bridges", settings))
