"""Jobs of a cluster as they are shown."""

from __future__ import annotations

import io
import time
from typing import Any

from rich.console import Console

from cluster.jobs.listing import ListedJob
from orchestrator.status.jobs import print_jobs


def job(number: int, **changes: Any) -> ListedJob:
    values: dict[str, Any] = {
        "id": f"stillhouse-clinic-01234567-{number}", "run": "clinic", "identity": "0123456789", "status": "SUCCEEDED",
        "command": "stillhouse run run.yaml", "started": 1000.0, "ended": 1090.0, "message": "Job finished.",
    }  # fmt: skip
    return ListedJob(**values | changes)


def shown(*jobs: ListedJob) -> list[str]:
    out = io.StringIO()
    print_jobs(jobs, Console(file=out))
    return out.getvalue().splitlines()


def test_a_job_is_a_row_and_what_failed_says_why() -> None:
    failed = job(2, status="FAILED", message="exit code 1")
    _, first, second, why = shown(job(1), failed)
    assert all(word in first for word in ("stillhouse-clinic-01234567-1", "SUCCEEDED", "1:30", "run.yaml"))
    assert "FAILED" in second and why == f"FAILED {failed.id}: exit code 1"


def test_of_very_many_the_newest_are_shown() -> None:
    lines = shown(*(job(n) for n in range(130)))
    assert len(lines) == 102 and "30 older" in lines[-1]


def test_a_job_that_runs_has_taken_until_now() -> None:
    now = time.time()
    assert job(1, status="RUNNING", started=now - 60, ended=None).seconds(now) == 60
    assert job(1, status="STOPPED", ended=None).seconds(now) is None
    assert job(1, started=None, ended=None).seconds(now) is None
