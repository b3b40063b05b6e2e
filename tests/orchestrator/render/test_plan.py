"""`stillhouse plan` in a pipe."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

LONG = "a_domain_whose_name_is_longer_than_the_lines_of_most_terminals_that_people_ever_work_at"


def test_in_a_pipe_no_line_of_a_plan_is_broken_or_cut(
    project: Any, stillhouse: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    project.rows(f"{LONG}.jsonl", *({"id": i, "prompt": f"the fever is {i}"} for i in range(8)))
    project.set(f"prompts.{LONG}", f"{LONG}.jsonl")
    project.set(f"specialists.{LONG}", {})
    said = stillhouse("plan", project.write())
    lines = said.out.splitlines()
    [prompts] = [line.split() for line in lines if line.startswith(f"{LONG} ")]
    assert len(prompts) == 4 and all(n.replace(",", "").isdigit() for n in prompts[1:])
    [part] = [line for line in lines if line.startswith(f"specialist {LONG} ")]
    assert part.split()[2:5] == ["1", "1", "0"] and "~" in part
    assert "…" not in said.out
