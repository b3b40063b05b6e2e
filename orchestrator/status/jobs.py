"""The jobs of a cluster as a table."""

from __future__ import annotations

import time
from collections.abc import Sequence

from rich.console import Console

from cluster.holder import local_time
from cluster.jobs.listing import ListedJob
from orchestrator.monitors.wording import clock
from orchestrator.render.columns import print_columns

_HEADS = ["job", "run", "status", "sent", "took", "command"]

_SHOWN = 100
"""Jobs that are shown."""


def print_jobs(found: Sequence[ListedJob], out: Console) -> None:
    """Print a row for each job, and below them what Ray says of those that failed."""
    now, shown = time.time(), found[:_SHOWN]
    print_columns(out, _HEADS, [_cells(job, now) for job in shown], [head for head in _HEADS if head != "took"])
    for job in shown:
        if job.status == "FAILED":
            out.print(f"FAILED {job.id}: {job.message}", markup=False, soft_wrap=True)
    if (more := len(found) - _SHOWN) > 0:
        out.print(f"and {more:,} older ones; --json shows all")


def _cells(job: ListedJob, now: float) -> list[str]:
    seconds = job.seconds(now)
    sent = "–" if job.started is None else local_time(job.started)
    return [job.id, job.run, job.status, sent, "–" if seconds is None else clock(seconds), job.command]
