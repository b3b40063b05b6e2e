"""What `validate` says of a configuration, as JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from support.project import Project, hand_checked

Command = Callable[..., Any]


def told(rows: int, read: list[tuple[list[str], int]], given: int) -> dict[str, Any]:
    """What is said of a source of texts, by the columns that its rows were read from."""
    prompts = sum(count for _, count in read)
    columns = [{"columns": names, "rows": count} for names, count in read]
    found = {"prompts": prompts, "kinds": {"texts to continue": prompts}, "given": given, "read": columns, "unread": {}}
    return {"rows": rows, "rows_read": rows, "exact": True} | found


def test_json_of_validate(project: Project, stillhouse: Command) -> None:
    hand_checked(project)
    data = json.loads(stillhouse("validate", project.write(), "--json").out)
    assert data == {
        "ok": True,
        "prompts": 6,
        "sampled": False,
        "rejected": [{"source": "legal", "row": 2, "id": None, "reason": "is not JSON", "file": ""}],
        "sources": {
            "medical": told(4, [(["prompt"], 4)], given=0),
            "legal": told(3, [(["prompt", "answer"], 1), (["prompt"], 1)], given=1),
        },
        "notes": [],
        "models": [],
    }
