"""Finds tasks in a process of its own: `python -m workers.evaluation.harness.looking`, which reads settings as JSON and
prints, in its last line, the tasks or why one is refused. See `workers.evaluation.harness.finding`."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import Any

from workers.evaluation.harness.config import HarnessConfig
from workers.evaluation.harness.loading import HarnessTasks


def look(settings: HarnessConfig, run_code: bool) -> dict[str, Any]:
    """`tasks`, the records of all tasks, or `fault`, a sentence."""
    try:
        tasks = HarnessTasks(settings, run_code)
        return {"tasks": [asdict(tasks.facts(name, tasks.load(name))) for name in settings.tasks]}
    except ValueError as error:
        return {"fault": str(error)}


if __name__ == "__main__":
    asked = json.load(sys.stdin)
    print()
    print(json.dumps(look(HarnessConfig(**asked["settings"]), asked["run_code"])))
