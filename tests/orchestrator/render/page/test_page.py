"""report.html: whole, alone, safe with hostile names, and its numbers can be read back."""

from __future__ import annotations

import base64
import hashlib
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from support.measured_run import LOSS_IS_NAN, TIMES, measured_report, measured_run
from support.pages.guesses import guesses_of
from support.small_configuration import clinic

from orchestrator.render.page.page import report_page
from orchestrator.render.page.tokens import readable
from orchestrator.render.page.writing import page_of_last, write_report
from orchestrator.reporting.measures.shown import Texts, texts_from_json, texts_json
from orchestrator.reporting.records import LossPoint
from orchestrator.reporting.report import Report, build_report
from orchestrator.reporting.timing import Timing, Worked
from workers.evaluation.shown_texts import ShownText
from workers.layout import REPORT_HTML, REPORT_JSON, REPORT_MARKDOWN, REPORT_TEXTS

HOSTILE = "</script><script>alert(1)</script>"


def shown(prompt: str, worst: bool = True) -> ShownText:
    guesses = [[("␣a", 0.75), (HOSTILE, 0.125)], [("b", 0.5), ("\\n", 0.25)]]
    return ShownText(
        prompt, worst, ["␣the"], ["␣a", HOSTILE], 3, [0.25, 2.5], [0.75, 0.1], [0.5, 0.9], guesses, guesses
    )


@pytest.fixture
def texts() -> Texts:
    return {"medical": {"medical": [shown("medical/7")]}, "medical.hard_labels": {"medical": [shown("medical/7")]}}


@pytest.fixture
def report(tmp_path: Path) -> Report:
    """With a loss curve, spans of time, and a failure whose words are markup."""
    made = measured_report(tmp_path, {**LOSS_IS_NAN, "code": HOSTILE})
    curve = tuple(LossPoint(tokens=100 * i, loss=5 / (i + 1)) for i in range(50))
    made.students["medical"] = replace(made.students["medical"], curve=curve)
    made.timing = replace(TIMES, spans={"teacher": ((0.0, 61.0),), "medical": ((5.0, 40.0), (50.0, 60.0))})
    return made


class Elements(HTMLParser):
    """Tags with their attributes, and the text of elements with an id."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.texts: dict[str, str] = {}
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.open.append(dict(attrs).get("id") or "")

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1]:
            self.texts[self.open[-1]] = self.texts.get(self.open[-1], "") + data


def test_the_page_asks_for_nothing_and_runs_its_own_script_only(report: Report, texts: Texts) -> None:
    page = report_page(report, texts)
    found = Elements(page)
    assert not [a for _, attributes in found.tags for a in attributes if a in ("src", "srcset", "onclick", "onload")]
    links = [attributes["href"] for tag, attributes in found.tags if tag in ("a", "link")]
    assert links and all(link is not None and link.startswith("#") for link in links)
    assert not re.findall(r"url\(|@import", page)
    scripts = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    [digest] = re.findall(r"script-src 'sha256-([^']+)'", page)
    assert len(scripts) == 1 and base64.b64encode(hashlib.sha256(scripts[0].encode()).digest()).decode() == digest
    assert HOSTILE not in page and len(page) < 100_000


def leaves(value: Any, where: str = "") -> Iterator[tuple[str, Any]]:
    """What a JSON value holds, by its place."""
    if isinstance(value, dict | list) and value:
        for key, one in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(one, f"{where}/{key}")
    else:
        yield where, value


def test_the_numbers_are_in_the_page(report: Report, texts: Texts) -> None:
    page = report_page(report, texts)
    read_back = Report.from_json(Elements(page).texts["report"])
    assert dict(leaves(read_back.to_dict())) == {
        where: pytest.approx(value, rel=1e-5) if isinstance(value, float) else value
        for where, value in leaves(report.to_dict())
    }
    [guesses] = guesses_of(page)
    assert guesses["columns"].keys() == {"teacher", "specialist", "hard labels"} and guesses["tokens"][1] == HOSTILE
    assert guesses["says"][0] == "KL 0.250 nats; the model gives this token 75.0%, its teacher 50.0%"


def test_everything_has_a_name_for_a_reader_of_screens(report: Report, texts: Texts) -> None:
    page = report_page(report, texts)
    found = Elements(page)
    names = {attributes.get("id") for _, attributes in found.tags}
    assert all(a["aria-labelledby"] in names for _, a in found.tags if "aria-labelledby" in a)
    assert page.count('role="img"') == page.count("<desc>") == len(re.findall("<figure>", page)) >= 3
    assert page.count("<details>") == page.count("<figure>")  # the numbers of each picture
    assert all(verdict in page for verdict in ("no gate", "did not train"))
    tokens = [a for tag, a in found.tags if tag == "span" and a.get("class") == "t"]
    assert [a.get("tabindex") for a in tokens] == ["0", None] and tokens[1]["style"] == "--v:1"


def test_files_are_written_and_a_page_is_built_anew(tmp_path: Path, report: Report, texts: Texts) -> None:
    run = measured_run(tmp_path / "again")
    so_far = build_report(run, run.located_config(), None, {}, Timing())
    before = page_of_last(run.storage, lambda: so_far, Worked(Timing(wall_s=7), {}), clinic())
    assert "wall 7 s" in before and "was not scored" in before
    worked = Worked(report.timing, {})
    report.take_timing(worked, clinic())
    write_report(run.storage, report, texts)
    keys = {REPORT_HTML, REPORT_JSON, REPORT_MARKDOWN, REPORT_TEXTS}
    assert all(run.storage.exists(key) for key in keys)
    after = page_of_last(run.storage, lambda: so_far, worked, clinic())
    assert after == run.storage.read(REPORT_HTML).decode() == report_page(report, texts)


def test_texts_are_read_back_and_another_schema_is_refused(texts: Texts) -> None:
    data = texts_json(texts)
    assert texts_from_json(data) == texts
    with pytest.raises(ValueError, match="schema 9"):
        texts_from_json(data.replace(b'"schema": 1', b'"schema": 9'))


def test_tokens_are_read_as_text() -> None:
    assert readable("␣two␣words\\n") == " two words⏎\n"


def test_the_command_builds_the_page_of_a_run_that_works_still(tmp_path: Path) -> None:
    run = measured_run(tmp_path)
    command = [sys.executable, "-m", "orchestrator", "report", run.uri]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout.strip()) == (0, f"{run.uri}/{REPORT_HTML}"), done.stderr
    assert "was not scored" in run.storage.read(REPORT_HTML).decode()
    elsewhere = tmp_path / "page.html"
    assert subprocess.run([*command, "--out", str(elsewhere)], timeout=120).returncode == 0
    assert elsewhere.read_bytes() == run.storage.read(REPORT_HTML)
    wrong = subprocess.run([*command[:-1], str(tmp_path)], capture_output=True, text=True, timeout=120)
    assert wrong.returncode == 2 and "Traceback" not in wrong.stderr
