"""Runs side by side: paired where the text is the same, and over seeds where it is not."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from support.measured_run import measured_report

from orchestrator.render.looking.runs import print_side_by_side, run_labels
from orchestrator.render.page.side_by_side import side_by_side_page
from orchestrator.reporting.measures.capacity import CapacityReport, GeneralistFloor
from orchestrator.reporting.side_by_side import ComparedRun, side_by_side
from workers.evaluation.heldout.sums import SUMMED
from workers.evaluation.metrics.domain_scores import DomainScores

TEXT = ["a", "b"]
FOLDERS = ["s3://one/a/runs/x", "s3://one/b/runs/x", "s3://one/a/runs/y"]


def scores(kl: float) -> DomainScores:
    """40 prompts of unlike difficulty, the same in every run."""
    tokens_P = np.full(40, 10.0)
    hard_P = np.random.default_rng(0).gamma(4, 0.25, 40)
    sums = {n: np.zeros(40) for n in SUMMED} | {"kl": tokens_P * kl * hard_P, "tokens": tokens_P}
    return DomainScores([f"p{i}" for i in range(40)], sums, np.zeros((0, 4)), {})


def run(folder: Path, name: str, kl: float, text: list[str], **changes: Any) -> ComparedRun:
    return ComparedRun(name, measured_report(folder / name, **changes), {"medical": scores(kl)}, text)


def test_the_same_text_gives_paired_differences_to_the_first_run(tmp_path: Path) -> None:
    found = side_by_side([run(tmp_path, "one", 0.2, TEXT), run(tmp_path, "two", 0.1, TEXT)], 500)
    assert [(s.name, s.run) for s in found.specialists if s.name == "medical"] == [
        ("medical", "one"),
        ("medical", "two"),
    ]
    first, second = (s.difference for s in found.specialists if s.name == "medical")
    assert first is None and second is not None and found.same_text
    assert second.kl == pytest.approx(-0.1 * scores(1.0).by_prompt["kl"].mean() / 10) and second.high < 0
    assert found.floors == {}  # of one seed


def test_runs_are_told_apart_by_as_much_of_their_folders_as_it_takes(tmp_path: Path) -> None:
    runs = [run(tmp_path / str(i), where, 0.2, TEXT) for i, where in enumerate(["a/runs/x", "b/runs/x", "a/runs/y"])]
    found = side_by_side([replace(one, name=name) for one, name in zip(runs, FOLDERS, strict=True)], 100)
    assert list(run_labels(found).values()) == ["a/runs/x", "b/runs/x", "a/runs/y"]
    assert run_labels(replace(found, specialists=found.specialists[1:3]))["s3://one/b/runs/x"] == "x"


def test_the_page_has_the_numbers_and_what_they_say(tmp_path: Path) -> None:
    page = side_by_side_page(side_by_side([run(tmp_path, "one", 0.2, TEXT), run(tmp_path, "two", 0.1, TEXT)], 500))
    assert page.count('role="img"') == 1 and "two: 0.1110 (0.1010 … 0.1410), nearer to the teacher" in page
    assert page.count("<tr>") == 5 and "not scored" in page and "one, two: side by side" in page


def test_other_text_gives_none_and_is_said(tmp_path: Path) -> None:
    found = side_by_side([run(tmp_path, "one", 0.2, TEXT), run(tmp_path, "two", 0.1, ["c"])], 500)
    assert not found.same_text and all(s.difference is None for s in found.specialists)
    out = Console(file=io.StringIO(), width=200)
    print_side_by_side(found, out)
    assert "Held-out texts differ" in out.file.getvalue() and "not scored" in out.file.getvalue()  # type: ignore[attr-defined]


def floors(compared: ComparedRun, own: float, mixed: float, seed: int) -> ComparedRun:
    around = {"floor_low": 0.0, "floor_high": 1.0}
    generalist = GeneralistFloor(
        floor=mixed, **around, difference=0, difference_low=0, difference_high=0, sentence="", equal_tokens=None,
        at_equal_tokens=None, at_equal_sentence="", points=(),
    )  # fmt: skip
    capacity = CapacityReport(
        kl0=1, light="red", size=None, floor=own, **around, exponent=1, remaining=0, verdict="undecided", advice="",
        points=(), generalist=generalist,
    )  # fmt: skip
    students = {"medical": replace(compared.report.students["medical"], capacity=capacity)}
    return replace(compared, report=replace(compared.report, students=students, seed=seed))


def test_floors_over_seeds_are_judged_together(tmp_path: Path) -> None:
    runs = [
        floors(run(tmp_path, f"seed{i}", 0.2, [str(i)]), own, mixed, i)
        for i, (own, mixed) in enumerate([(0.1, 0.2), (0.11, 0.22), (0.09, 0.19)])
    ]
    [sentence] = side_by_side(runs, 200).floors.values()
    assert "lower than the generalist's" in sentence
    assert side_by_side([runs[0], replace(runs[1], report=replace(runs[1].report, seed=0))], 200).floors == {}


@pytest.mark.parametrize("names", [["one"], ["one", "one"]])
def test_one_run_or_the_same_twice_is_refused(tmp_path: Path, names: list[str]) -> None:
    compared = run(tmp_path, "one", 0.2, TEXT)
    with pytest.raises(ValueError, match="two different runs"):
        side_by_side([compared for _ in names], 200)
