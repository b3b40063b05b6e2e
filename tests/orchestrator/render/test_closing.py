"""What a run prints when it ends, on a terminal and in a pipe."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console
from support.measured_run import measured_report, opened, with_short_control
from support.small_configuration import clinic

from orchestrator.render.closing import closing_lines, print_closing, print_verdicts
from orchestrator.render.markdown import markdown
from orchestrator.reporting.report import Report, build_report
from orchestrator.reporting.timing import Timing
from workers.export.artefact import Artefact

LONG = "a_specialist_whose_name_is_longer_than_the_lines_of_most_terminals_that_people_ever_work_at"


@pytest.fixture
def report(tmp_path: Path) -> Report:
    return measured_report(tmp_path)


def printed(report: Report, *, terminal: bool = False, width: int | None = None) -> list[str]:
    out = io.StringIO()
    print_closing(report, Console(file=out, highlight=False, force_terminal=terminal, width=width))
    return out.getvalue().splitlines()


def test_the_table_sets_each_specialist_beside_its_controls(report: Report) -> None:
    title, heads, row, *_ = printed(report)
    assert "clinic" in title and "held-out KL" in title
    assert " ".join(heads.split()) == "specialist KL ± 95 % initial hard labels generalist top-1"
    assert row.split() == ["medical", "0.111", "±", "0.020", "4.444", "0.333", "0.555", "88%"]


def test_a_control_that_ended_early_stands_beside_its_specialist_of_that_moment(report: Report) -> None:
    _, heads, row, compared, *_ = printed(with_short_control(report))
    assert " ".join(heads.split()) == "specialist KL ± 95 % initial at equal tokens hard labels generalist top-1"
    assert row.split()[4:7] == ["4.444", "0.200", "0.333"]
    assert compared == "medical after 1,500 of 5,000 target tokens: KL 0.200 distilled, 0.333 from hard labels"
    ranks = "specialist 2, 3; at equal tokens 9, 9; hard labels 71, -"
    assert f"medical, rank of each probe: {ranks}" in closing_lines(report)


@pytest.mark.parametrize("controls", ["initial", "hard_labels"])
def test_a_control_that_nobody_has_has_no_column(report: Report, controls: str) -> None:
    report.students["medical"] = replace(report.students["medical"], **{controls: None})
    assert controls.replace("_", " ") not in printed(report)[1]
    assert any("distilled" in line for line in printed(report)) == (controls == "initial")


def test_in_a_pipe_no_line_is_broken_or_cut(report: Report, monkeypatch: pytest.MonkeyPatch) -> None:
    """A console that is no terminal takes 80 columns, or what COLUMNS says."""
    monkeypatch.setenv("COLUMNS", "80")
    report.students[LONG] = report.students.pop("medical")
    lines = printed(report)
    assert all(words in lines[2] for words in (LONG, "0.111 ± 0.020", "4.444", "0.333", "0.555", "88%"))
    assert len(lines[1]) == len(lines[2]) > 80, "right-aligned below their heads"
    assert lines[3:] == closing_lines(report) and max(map(len, lines[3:])) > 80


def test_a_terminal_gets_a_table_of_its_width(report: Report) -> None:
    table = printed(report, terminal=True, width=100)[1:4]
    assert any("─" in line for line in table) and any("0.111" in line for line in table)


def test_the_lines_below(report: Report) -> None:
    text = "\n".join(closing_lines(report))
    assert "medical after 5,000 target tokens: KL 0.111 distilled, 0.333 from hard labels" in text
    assert "single-expert teacher" in text and "medical 1.78, legal 1.89" in text
    assert "medical, rank of each probe: specialist 2, 3; hard labels 71, -" in text
    assert "FAILED" not in text, "what became of specialists stands below"
    assert "3 × is not JSON" in text and "damaged" not in text
    for seconds in ("teacher 61 s", "students 47 s", "both at once 33 s", "wall 92 s"):
        assert seconds in text


def test_markup_in_messages_is_text(tmp_path: Path) -> None:
    report = measured_report(tmp_path, {"legal": "KeyError: [bold]x[/bold] [/]"})
    assert "✘ legal did not train: KeyError: [bold]x[/bold] [/]" in decided(report, terminal=False)


def test_nothing_measured_prints_no_table(tmp_path: Path) -> None:
    report = build_report(opened(tmp_path), clinic(), None, {}, Timing())
    assert printed(report) == closing_lines(report)


def test_exported_files_are_told_with_what_they_lose(report: Report) -> None:
    files = (
        Artefact("gguf q4_0", "exports/medical.gguf/medical-q4_0.gguf", 91_726_688, "ab", "llama.cpp", kl_float=0.2934,
                 kl_fake_quant=0.0042, tokens_per_s=53.87, peak_mb=519.5),
        Artefact("gguf q8_0", "exports/medical.gguf-q8_0/medical-q8_0.gguf", 1_000_000, "cd", "llama.cpp"),
    )  # fmt: skip
    report.note_exports(["exports/medical"], {"medical": files[:1]})
    report.note_exports([], {"medical": [files[1], replace(files[0], kl_fake_quant=0.02)]})
    first, second = (line for line in closing_lines(report) if line.startswith("exports/"))
    assert first.startswith("exports/medical.gguf/medical-q4_0.gguf: 91.7 MB; 0.2934 nats from the model before")
    assert "0.0200 from the rounded one in llama.cpp, which is more than" in first and "53.9 tokens/s, 520 MiB" in first
    assert second == "exports/medical.gguf-q8_0/medical-q8_0.gguf: 1.0 MB; not measured"
    assert Report.from_json(report.to_json()) == report
    text = markdown(report)
    assert "## Exported files" in text and "| `exports/medical.gguf-q8_0/medical-q8_0.gguf` | 1,000,000 |" in text


def decided(report: Report, *, terminal: bool, width: int | None = None) -> list[str]:
    out = io.StringIO()
    console = Console(file=out, highlight=False, force_terminal=terminal, width=width, color_system=None)
    print_verdicts(report, console, ["Report: runs/clinic/report.html"])
    return out.getvalue().splitlines()


def test_what_is_decided_stands_last_with_the_way_to_the_report(report: Report) -> None:
    medical, legal, where = decided(report, terminal=False)
    assert medical.startswith("• medical: KL to its teacher 0.111 (") and where.endswith("report.html")
    assert legal == "✘ legal did not train: ValueError: loss is NaN at step 88"


@pytest.mark.parametrize("width", [80, 130])
def test_a_terminal_gets_it_in_a_frame(report: Report, width: int) -> None:
    first, *lines, last = decided(report, terminal=True, width=width)
    assert "clinic" in first and {line[0] for line in lines} == {"│"} and last.startswith("╰")
    assert {len(line) for line in (first, *lines, last)} == {width}


def test_a_file_that_its_runtime_computes_otherwise_fails_a_gate(report: Report) -> None:
    near = Artefact("gguf q4_0", "exports/medical.gguf/m.gguf", 1000, "ab", "llama.cpp", kl_fake_quant=0.004)
    report.students["medical"] = replace(report.students["medical"], artefacts=(near,))
    assert not report.fails_gate() and not any(near.path in line for line in decided(report, terminal=False))
    far = replace(near, kl_fake_quant=0.02)
    report.students["medical"] = replace(report.students["medical"], artefacts=(near, far))
    [line] = [line for line in decided(report, terminal=False) if near.path in line]
    assert report.fails_gate() and line.startswith("✘ ") and "0.0200 from the rounded one in llama.cpp" in line
