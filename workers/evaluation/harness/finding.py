"""Which tasks of lm-evaluation-harness there are, for the driver, which does not load it: a process of its own looks.
No torch."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

from workers.evaluation.harness.asked import HarnessTask
from workers.evaluation.harness.config import HarnessConfig

_ROOT = Path(__file__).resolve().parents[3]


def harness_is_there() -> bool:
    """Whether lm-evaluation-harness is installed."""
    return importlib.util.find_spec("lm_eval") is not None


def find_tasks(settings: HarnessConfig, run_code: bool) -> list[HarnessTask]:
    """The tasks that settings name, each loaded once: seconds. Raises ValueError, naming the task, for one that is not
    known, whose items are not to be had, or that runs programs where that is off."""
    if not harness_is_there():
        raise ValueError(
            "evaluate.harness: the package lm-eval is not installed; pip install 'stillhouse[harness]' here and on "
            "the nodes that score, or take evaluate.harness out"
        )
    path = os.pathsep.join(filter(None, [str(_ROOT), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, "-m", "workers.evaluation.harness.looking"],
        input=json.dumps({"settings": settings.model_dump(), "run_code": run_code}),
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        said = done.stderr.strip().splitlines() or ["it said nothing"]
        raise ValueError(f"evaluate.harness: looking for tasks failed (exit code {done.returncode}): {said[-1]}")
    found = json.loads(done.stdout.splitlines()[-1])
    if "fault" in found:
        raise ValueError(found["fault"])
    tasks = [HarnessTask(**task) for task in found["tasks"]]
    _check_metric(settings, tasks)
    return tasks


def _check_metric(settings: HarnessConfig, tasks: list[HarnessTask]) -> None:
    metrics = sorted({metric for task in tasks for own in task.metrics.values() for metric in own})
    if settings.metric is not None and settings.metric.partition(",")[0] not in metrics:
        raise ValueError(
            f"evaluate.harness.metric: {settings.metric!r} is no metric of its tasks, which have {', '.join(metrics)}"
        )
