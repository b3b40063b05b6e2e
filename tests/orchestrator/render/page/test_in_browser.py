"""Pages in a browser: nothing is asked of a network, nothing is blank, and everybody can use them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.measured_run import score
from support.pages.browser import SCHEMES, WIDTHS, chromium, findings, opened
from support.pages.full_report import full_report, full_texts

from orchestrator.render.page.page import report_page
from orchestrator.render.page.side_by_side import side_by_side_page
from orchestrator.render.page.token_page import answers_page, stored_page
from orchestrator.reporting.scores import Difference, Interval, Score
from orchestrator.reporting.side_by_side import SideBySide, SpecialistBeside

pytestmark = pytest.mark.long

PAGES = ("report", "answers", "stored", "side_by_side")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    path = chromium()
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path)
        yield started
        started.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A file of each kind of page."""
    folder = tmp_path_factory.mktemp("pages")
    made = {
        "report": report_page(full_report(folder / "run"), full_texts()),
        "answers": answers_page("the fever", answers()),
        "stored": stored_page(stored()),
        "side_by_side": side_by_side_page(beside()),
    }
    assert tuple(made) == PAGES
    for name, page in made.items():
        (folder / f"{name}.html").write_text(page, encoding="utf-8")
    return {name: folder / f"{name}.html" for name in made}


def answers() -> dict[str, Any]:
    steps = [{"token": f" word{i}", "probability": i / 40, "next": [["a", 0.5], ["b", 0.25]]} for i in range(40)]
    return {"teacher": {"steps": steps}, "medical": {"steps": []}}


def stored() -> dict[str, Any]:
    numbers = {"entropy": 1.5, "token_logprob": -5.0, "ids": [[1, "␣a", 0.5], [2, "b", 0.25]]}
    position = {"position": 4, "token": [1, "a"], "behind": "␣a", "stored": numbers, "exact": numbers}
    whole = {"run": "runs/x", "split": "train", "scheme": "systematic", "prompt_uid": "x/1", "sample": 0, "unit": 3}
    text = {"teacher": "teacher", "text": "before", "target_byte": 6, "tokens": 9, "start": 4, "top": 2}
    return whole | text | {"positions": [position] * 5}


def beside() -> SideBySide:
    near = Interval(value=-0.1, low=-0.2, high=-0.05)
    measures = ("reverse_kl", "acceptance", "top1_agreement", "nll", "overconfidence", "overconfidence_to_teacher")
    difference = Difference(kl=-0.1, low=-0.2, high=-0.05, **dict.fromkeys(measures, near))
    found = [
        SpecialistBeside(
            run=f"runs/{run}", name="medical", domain="medical", tokens=5000, heldout=Score.of(score(kl)),
            retention=near, difference=difference if run == "two" else None,
        )
        for run, kl in (("one", 0.2), ("two", 0.1))
    ]  # fmt: skip
    return SideBySide(specialists=tuple(found), same_text=True, floors={"medical": "cannot be told apart"})


@pytest.mark.parametrize("name", PAGES)
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", WIDTHS)
def test_a_page_is_quiet_alone_and_no_wider_than_its_window(
    browser: Any, pages: dict[str, Path], name: str, scheme: str, width: int
) -> None:
    with opened(browser, pages[name], width, scheme) as shown:
        assert shown.console == [] and shown.requests == [pages[name].as_uri()]
        assert shown.overflow <= 0
        paper = shown.page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (min(rgb(paper)) > 200) == (scheme == "light")


def test_long_names_do_not_widen_a_phone(browser: Any, tmp_path: Path) -> None:
    report, name = full_report(tmp_path / "run"), "a_specialist_of_which_the_name_is_far_too_long"
    for named in (report.students, report.verdicts, report.table, report.curves, report.calibration):
        named[name] = named["medical"]  # type: ignore[attr-defined, index]
    report.timing.spans[name] = report.timing.spans["medical"]
    page = tmp_path / "page.html"
    page.write_text(report_page(report, {name: full_texts()["medical"]}), encoding="utf-8")
    with opened(browser, page, 390) as shown:
        assert shown.overflow <= 0
        texts = shown.page.locator("svg.picture text").evaluate_all("all => all.map(t => t.getBoundingClientRect())")
        assert min(box["left"] for box in texts) >= 0 and max(box["right"] for box in texts) <= 390


def rgb(colour: str) -> list[int]:
    """Of what CSS says of an opaque colour."""
    return [int(part) for part in colour.removeprefix("rgb(").removesuffix(")").split(",")]


@pytest.mark.parametrize("name", PAGES)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_axe_finds_nothing_serious(browser: Any, pages: dict[str, Path], name: str, scheme: str) -> None:
    assert findings(browser, pages[name], scheme) == []


def test_axe_would_find_it(browser: Any, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text(
        "<!doctype html><html><body><img src=''><button></button><p style='color:#ccc'>pale</p></body></html>"
    )
    found = " ".join(findings(browser, page, "light"))
    assert all(rule in found for rule in ("image-alt", "button-name", "color-contrast", "html-has-lang"))


@pytest.mark.parametrize(("name", "least"), [("report", 8), ("side_by_side", 1)])
def test_every_picture_has_marks_that_can_be_seen(browser: Any, pages: dict[str, Path], name: str, least: int) -> None:
    marks = """svg => [...svg.querySelectorAll(".line, .dot, .bar, .band")].filter(mark => {
        const box = mark.getBoundingClientRect(), style = getComputedStyle(mark);
        return box.width + box.height > 1 && (style.fill !== "none" || style.stroke !== "none");
    }).length"""
    with opened(browser, pages[name]) as shown:
        found = {svg.locator("title").first.text_content(): svg.evaluate(marks) for svg in
                 shown.page.locator("svg.picture").all()}  # fmt: skip
        assert len(found) >= least and all(found.values()), found


@pytest.mark.parametrize("name", ["report", "answers", "stored"])
def test_the_pointer_and_the_keys_show_runners_up(browser: Any, pages: dict[str, Path], name: str) -> None:
    with opened(browser, pages[name]) as shown:
        panel, tokens = shown.page.locator("#panel"), shown.page.locator(".tokens").first.locator(".t")
        assert not panel.is_visible()
        tokens.nth(0).hover()
        assert panel.is_visible() and ("75.0 %" if name == "report" else "50.0 %") in panel.inner_text()
        first = panel.inner_text()
        tokens.nth(0).focus()
        shown.page.keyboard.press("ArrowRight")
        assert tokens.nth(1).evaluate("element => element === document.activeElement")
        if name == "report":
            assert panel.inner_text() != first and "teacher" in first.lower() and "hard labels" in first.lower()
            assert "</script>" in panel.inner_text() and "25.0 %" in panel.inner_text()
        shown.page.keyboard.press("End")
        assert tokens.last.evaluate("element => element === document.activeElement")
        shown.page.keyboard.press("Escape")
        assert not panel.is_visible()
        tokens.nth(0).focus()
        assert panel.is_visible()
        tokens.nth(0).blur()
        assert not panel.is_visible()


def test_runners_up_go_with_the_pointer(browser: Any, pages: dict[str, Path]) -> None:
    with opened(browser, pages["report"]) as shown:
        shown.page.locator(".t").first.hover()
        assert shown.page.locator("#panel").is_visible() and shown.page.locator(".t.here").count() == 1
        shown.page.locator("h1").hover()
        assert not shown.page.locator("#panel").is_visible() and shown.page.locator(".t.here").count() == 0


def test_a_touch_shows_them_too(browser: Any, pages: dict[str, Path]) -> None:
    with opened(browser, pages["report"], 390, has_touch=True) as shown:
        shown.page.locator(".t").first.tap()
        box = shown.page.locator("#panel").bounding_box()
        assert box is not None and box["x"] >= 0 and box["x"] + box["width"] <= 390


def test_the_verdicts_come_first(browser: Any, pages: dict[str, Path]) -> None:
    """In the window of a desk and without scrolling: who passes, why not, what to change."""
    with opened(browser, pages["report"]) as shown:
        assert "Passed: medical. Failed: legal. Did not train: code." in shown.page.inner_text("header")
        for words in ("the gate asks for 80.0%", "Data-bound: train on", "did not train"):
            box = shown.page.get_by_text(words).first.bounding_box()
            assert box is not None and box["y"] + box["height"] < 900, words


def test_without_scripts_everything_but_runners_up_is_there(browser: Any, pages: dict[str, Path]) -> None:
    with opened(browser, pages["report"], java_script_enabled=False) as shown:
        assert shown.page.locator(".t").first.is_visible() and shown.page.locator("svg.picture").first.is_visible()


@pytest.mark.parametrize("name", PAGES)
def test_no_printed_page_is_blank_and_paper_is_white(browser: Any, pages: dict[str, Path], name: str) -> None:
    light, dark = (inked(browser, pages[name], scheme) for scheme in SCHEMES)
    assert light and light == dark
    assert min(light) > 2e-4 and max(light) < 0.5, light


def inked(browser: Any, file: Path, scheme: str) -> list[float]:
    """The share of dark pixels on each page when it is printed."""
    import pypdfium2

    with opened(browser, file, scheme=scheme) as shown:
        document = pypdfium2.PdfDocument(shown.page.pdf(format="A4"))
    return [float(np.mean(page.render().to_numpy()[..., :3] < 128)) for page in document]


def test_a_printed_table_is_as_wide_as_its_paper(browser: Any, pages: dict[str, Path]) -> None:
    with opened(browser, pages["report"], 700) as shown:  # the width of A4 without margins
        shown.page.emulate_media(media="print")
        boxes = shown.page.locator(".scroll:visible").evaluate_all("all => all.map(b => b.scrollWidth - b.clientWidth)")
        assert len(boxes) >= 4 and max(boxes) <= 0
