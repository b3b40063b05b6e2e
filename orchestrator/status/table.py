"""The runs of a storage as a table."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from cluster.holder import local_time
from orchestrator.render.columns import print_columns
from orchestrator.render.spent import amount_words
from orchestrator.status.listing import ListedRun

_HEADS = ["run", "state", "stage", "started", "last sign of life", "specialists", "cost"]


def print_runs(found: Sequence[ListedRun], out: Console) -> None:
    """Print a row for each run, and below them what failed."""
    print_columns(out, _HEADS, [_cells(run) for run in found], [*_HEADS[:5], _HEADS[6]])
    for run in found:
        for name, cause in run.failures.items():
            out.print(f"FAILED {run.name}, {name}: {cause}", markup=False, soft_wrap=True)


def _cells(run: ListedRun) -> list[str]:
    failed = len(run.failures.keys() - {"run"})
    specialists = f"{run.done} of {run.specialists} done" + (f", {failed} failed" if failed else "")
    cost = amount_words(run.cost) if run.cost is not None else "–"
    return [run.name, run.state, run.stage or "–", _time(run.started), _time(run.last_sign), specialists, cost]


def _time(seconds: float | None) -> str:
    return "–" if seconds is None else local_time(seconds)
