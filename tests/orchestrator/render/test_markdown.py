"""report.md: what it says, and that nothing in a run's own words breaks its tables and lists."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from support.measured_run import measured_report, opened, score, with_short_control
from support.small_configuration import clinic

from orchestrator.render.jinja import one_line, table_cell
from orchestrator.render.markdown import markdown
from orchestrator.reporting.records import RepairReport
from orchestrator.reporting.report import Report, build_report
from orchestrator.reporting.scores import Score
from orchestrator.reporting.timing import Timing

HOSTILE = "ValueError: a | b \\| c\n\n| x | y |\n|---|---|\r\n# no title\n\n- no item"


@pytest.fixture
def report(tmp_path: Path) -> Report:
    return measured_report(tmp_path)


def tables(text: str) -> list[list[str]]:
    """The lines of each table."""
    blocks: list[list[str]] = [[]]
    for line in text.splitlines():
        if line.startswith("|"):
            blocks[-1].append(line)
        elif blocks[-1]:
            blocks.append([])
    return [block for block in blocks if block]


def assert_rectangular(text: str, least: int) -> None:
    found = tables(text)
    assert len(found) >= least
    for table in found:
        assert len({line.count("|") for line in table}) == 1, "\n".join(table)
        assert set(table[1]) == {"|", "-"} and len(table) > 2 and all(line.endswith("|") for line in table)


def row(text: str, label: str) -> list[str]:
    """The cells of the first table row that begins with a label."""
    line = next(line for line in text.splitlines() if line.startswith(f"| {label} |"))
    return [cell.strip() for cell in line.strip("|").split("|")][1:]


def test_the_scores_are_all_there(report: Report) -> None:
    text = markdown(report)
    assert text.startswith("# Run `clinic`\n") and text.endswith("\n")
    assert row(text, "**medical**") == ["0.1110", "0.1010 … 0.1410", "87.5%", "5.500", "0.0625", "-0.0312"]
    assert (
        row(text, "– initial weights")[0] == "4.4440" and row(text, "– hard labels, after 5,000 tokens")[0] == "0.3330"
    )
    assert row(text, "**legal**")[0] == "failed"
    assert row(text, "generalist") == ["0.666", "0.555"], "by domain, in the order of the alphabet"
    assert row(text, "*single-expert teacher* (one expert a layer, no router)") == ["1.888", "1.777"]
    assert row(text, "*teacher at 4 bit*") == ["0.070", "0.062"]
    assert row(text, "– its teacher at 4 bit")[0] == "0.0625"
    assert ["0.0500", "0.500", "10.0%"] in [[c.strip() for c in ln.split("|")[2:-1]] for ln in text.splitlines()]
    assert ["1, 2", "2, 3", "71, –"] in [[c.strip() for c in ln.split("|")[2:-1]] for ln in text.splitlines()]


def test_a_control_that_ended_early_stands_beside_its_specialist_of_that_moment(report: Report) -> None:
    text = markdown(with_short_control(report))
    assert row(text, "**medical**")[0] == "0.1110" and row(text, "– itself, after 1,500 tokens")[0] == "0.2000"
    assert row(text, "– hard labels, after 1,500 tokens")[0] == "0.3330"
    assert "- KL of medical - hard_labels, both after 1,500 tokens: -0.2220 (paired 95 % interval: -0.2500" in text
    assert ["1, 2", "2, 3", "9, 9", "71, –"] in [[c.strip() for c in ln.split("|")[2:-1]] for ln in text.splitlines()]
    assert_rectangular(text, 4)


def test_a_control_on_given_answers_stands_in_every_table(report: Report) -> None:
    medical = replace(report.students["medical"], given_answers=Score.of(score(0.7)), given_answers_tokens=4000)
    report.students["medical"] = medical
    difference = replace(report.differences["medical - hard_labels"], kl=-0.589, low=-0.6, high=-0.5)
    report.differences["medical - given_answers"] = difference
    text = markdown(report)
    assert row(text, "– given answers alone, after 4,000 tokens")[0] == "0.7000"
    assert "- KL of medical - given_answers, both after 4,000 tokens: -0.5890" in text
    assert "| – given answers alone | 1.4000 |" in text
    assert_rectangular(text, 4)


def test_a_whole_control_is_compared_with_what_its_specialist_became(report: Report) -> None:
    text = markdown(report)
    assert "- KL of medical - hard_labels, both after 5,000 tokens: -0.2220" in text and "itself" not in text


@pytest.mark.parametrize(
    "words",
    [
        *(
            "acme/teacher",
            "440 target tokens",
            "44 tokens/s",
            "systematic",
            "400 target tokens",
            "17.0 bytes",
            "9.0 kept",
        ),
        *("3 × is not JSON", "2 × holds 'halvorin'", "loss is NaN at step 88", "wall 92 s", "-0.2220", "-0.2500"),
    ],
)
def test_what_was_found_is_said(report: Report, words: str) -> None:
    assert words in markdown(report)


def test_tables_are_rectangular(report: Report) -> None:
    assert_rectangular(markdown(report), 4)


def test_repairs_have_a_line_each(report: Report) -> None:
    report.repairs = (
        RepairReport(split="train", unit=2, revision=1, changed=True, readers=("medical", "legal")),
        RepairReport(split="train", unit=3, revision=1, changed=False, readers=()),
    )
    text = markdown(report)
    assert "- damaged and recomputed: 2 units, 1 repairs with the same contents\n" in text
    assert "- unit 2 of the train store was recomputed with other contents; medical, legal had read" in text


def test_a_control_that_failed_is_named(tmp_path: Path) -> None:
    text = markdown(measured_report(tmp_path, {"medical.hard_labels": "OSError: no space", "generalist": "lost"}))
    assert "- `medical.hard_labels` failed: OSError: no space\n" in text and "- `generalist` failed: lost\n" in text
    assert row(text, "**medical**")[0] == "0.1110" and row(text, "**legal**")[0] == "not scored"


def test_hostile_words_break_nothing(tmp_path: Path) -> None:
    report = measured_report(tmp_path, {"legal": HOSTILE, "generalist": HOSTILE})
    report.notes = (HOSTILE,)
    report.targets = replace(report.targets, rejected_by_domain={HOSTILE: {HOSTILE: 1}})
    report.teachers = {"teacher": replace(report.teachers["teacher"], model=HOSTILE)}
    report.table["medical"][HOSTILE] = Score.of(score(7.777))
    report.students["legal"] = replace(report.students["legal"], domain=HOSTILE)
    text, usual = markdown(report), markdown(measured_report(tmp_path / "usual"))
    assert_rectangular(text, 4)
    assert len(tables(text)) == len(tables(usual))
    headings = [line for line in text.splitlines() if line.startswith("#")]
    assert headings == [*(line for line in usual.splitlines() if line.startswith("#")), "## Notes"]
    assert "7.777" in row(text, "medical")


@pytest.mark.parametrize("text", ["a|b", "a\\|b", "a\\\\|b", "|", "a\n|b", "a\r\n\tb", "\x0b\u2028"])
def test_a_cell_stays_a_cell(text: str) -> None:
    assert "|" not in table_cell(text) and len(table_cell(text).splitlines()) <= 1
    assert table_cell(text).replace("&#124;", "|") == one_line(text)


def test_no_path_of_the_machine(tmp_path: Path) -> None:
    (tmp_path / "models" / "large").mkdir(parents=True)
    failures = {"legal": f"OSError: cannot read {tmp_path}/models/large/config.json"}
    text = markdown(measured_report(tmp_path, failures, teacher={"model": "models/large"}))
    assert "(models/large)" in text and "cannot read models/large/config.json" in text
    assert str(tmp_path) not in text


def test_before_evaluation_there_are_no_tables_of_scores(tmp_path: Path) -> None:
    run = opened(tmp_path)
    text = markdown(build_report(run, clinic(), None, {}, Timing()))
    assert row(text, "**medical**")[0] == row(text, "**legal**")[0] == "not scored"
    assert len(tables(text)) == 1


@pytest.mark.parametrize(
    ("low", "high", "nearer"),
    [(0.04, 0.06, "the teacher at 4 bit"), (-0.06, -0.04, "medical"), (-0.01, 0.02, "neither")],
)
def test_the_teacher_at_4_bit_is_weighed_against_each_specialist(
    report: Report, low: float, high: float, nearer: str
) -> None:
    before = report.differences["medical - teacher_4bit"]
    report.differences["medical - teacher_4bit"] = replace(before, kl=(low + high) / 2, low=low, high=high)
    text = markdown(report)
    assert (
        "- the teacher at 4 bit takes 850 Bytes (80% of its weights at 4.5 bits, all else at 16) in place of 2.0 kB"
        in text
    )
    assert "- medical: KL 0.1110 in 14 Bytes at 16 bits, the teacher at 4 bit 0.0625 in 60.7 times as much; " in text
    assert f"; {nearer} is nearer to the teacher (" in text and "legal: KL" not in text
