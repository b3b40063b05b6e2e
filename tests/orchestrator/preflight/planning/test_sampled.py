"""Plans from samples of large sources: what is exact, how far estimates are off, and what no sample decides."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from support.project import Project

from orchestrator.prompts.sources import FEW_ROWS

Command = Callable[..., Any]
ROWS = 3 * FEW_ROWS


def plan(project: Project, stillhouse: Command, *words: str) -> dict[str, Any]:
    outcome = stillhouse("plan", project.write(), "--json", *words)
    assert outcome.code in (0, 1), outcome.err
    found: dict[str, Any] = json.loads(outcome.out)
    return found


def large(project: Project, **columns: Callable[[int], Any]) -> None:
    """A medical source of many rows; `columns` are functions of the row's number."""
    rows = ({"id": i, "prompt": f"the fever is {i}"} | {k: f(i) for k, f in columns.items()} for i in range(ROWS))
    project.rows("medical.jsonl", *rows)


def test_rows_are_exact_and_tokens_an_estimate(project: Project, stillhouse: Command) -> None:
    large(project, answer=lambda i: "rest " * (i % 40 + 1))
    project.set("evaluate.text", "given")
    quick, full = plan(project, stillhouse), plan(project, stillhouse, "--full")
    read = quick["sources"]["medical"]["read"]
    assert quick["sources"]["medical"]["rows"] == ROWS and FEW_ROWS / 2 - 20 <= read <= FEW_ROWS
    assert full["sources"]["medical"] == {"rows": ROWS, "read": ROWS, "exact": True}
    assert quick["sources"]["legal"] == full["sources"]["legal"] == {"rows": 8, "read": 8, "exact": True}
    assert quick["prompts"]["legal"] == full["prompts"]["legal"], "a small source is read whole"
    counts = quick["prompts"]["medical"]
    assert counts["train"] + counts["heldout"] == ROWS
    # Answers of 1 to 40 words: their mean over the sample is off by (40 / 12^.5 / mean) / read^.5, about 2 % of it.
    for key in ("train_tokens", "train_bytes"):
        assert quick[key] == pytest.approx(full[key], rel=0.06)
    # Held out by a hash of their ids: of all rows 5 % on average, with a standard deviation of .22 / rows^.5.
    assert quick["heldout_tokens"] == pytest.approx(full["heldout_tokens"], rel=0.25)


def test_domains_splits_and_faults_are_found_in_their_shares(project: Project, stillhouse: Command) -> None:
    """Rows take turns, and a sample of every k-th would see one of them."""
    large(
        project,
        domain=lambda i: ["medical", "legal", "medical", "other"][i % 4],
        split=lambda i: "heldout" if i % 16 == 3 else "train",
        prompt=lambda i: "" if i % 8 == 1 else f"the fever is {i}",
    )
    quick, full = plan(project, stillhouse), plan(project, stillhouse, "--full")
    assert full["rejected"] == ROWS / 8
    assert quick["rejected"] == pytest.approx(ROWS / 8, rel=0.1)
    for domain in ("medical", "legal", "other"):
        for split in ("train", "heldout"):
            assert quick["prompts"][domain][split] == pytest.approx(full["prompts"][domain][split], rel=0.2), domain


def test_a_sample_refuses_nothing(project: Project, stillhouse: Command) -> None:
    """A domain of one row among thousands, the second, which is not in the sample."""
    large(project, domain=lambda i: "rare" if i == 1 else "medical")
    project.set("specialists.rare", {})
    quick = plan(project, stillhouse)
    assert quick["prompts"]["rare"]["train"] == 1
    assert quick["sources"]["medical"] == {"rows": ROWS, "read": ROWS, "exact": True}, "all rows were asked"


def test_what_is_wrong_with_all_rows_is_refused(project: Project, stillhouse: Command) -> None:
    large(project)
    project.set("specialists.unheard", {})
    assert "no training prompt belongs to the domain 'unheard'" in stillhouse("plan", project.write()).error


def test_a_person_is_told_what_was_read(project: Project, stillhouse: Command) -> None:
    large(project)
    said = stillhouse("plan", project.write()).out
    [line] = [line for line in said.splitlines() if "--full" in line]
    assert f"of {ROWS:,}" in line and "medical" in line and "legal" not in line
    assert "--full" not in stillhouse("plan", project.write(), "--full").out
