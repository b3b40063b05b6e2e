"""What a process pays to open a log: run as a process of its own, so that its memory is its own.

python -m log_bench.opening URI      prints one JSON object
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psutil

from cluster.storage import open_storage
from log_bench.entries import ROOT
from workers.targets.commits.log import TargetLog


def opened(uri: str) -> dict[str, Any]:
    """Seconds, memory and requests of a process that opens the log at a URI."""
    run = subprocess.run(
        [sys.executable, "-m", "log_bench.opening", uri],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[1],
    )
    return json.loads(run.stdout)


def count_requests() -> Counter[str]:
    """Requests to S3 by operation, from now on."""
    from aiobotocore.client import AioBaseClient

    requests: Counter[str] = Counter()
    original = AioBaseClient._make_api_call

    async def counted(self: AioBaseClient, operation_name: str, api_params: dict) -> object:
        requests[operation_name] += 1
        return await original(self, operation_name, api_params)

    AioBaseClient._make_api_call = counted
    return requests


def _open(uri: str) -> dict[str, Any]:
    """A resumed run asks which units are committed; reports and repairs read every entry."""
    requests = count_requests()
    log = TargetLog(open_storage(uri), ROOT)
    before, started = _memory_mb(), time.monotonic()
    units = len(log.committed())
    listed, listing = time.monotonic(), dict(requests)
    requests.clear()
    entries = log.entries()
    read = time.monotonic()
    assert len(entries) == units
    return {
        "units": units,
        "committed_s": listed - started,
        "entries_s": read - listed,
        "entries_mb": _memory_mb() - before,
        "committed_requests": sum(listing.values()),
        "entries_requests": requests.total(),
        "operations": {"committed": listing, "entries": dict(requests)},
    }


def _memory_mb() -> float:
    return psutil.Process().memory_info().rss / (1 << 20)


if __name__ == "__main__":
    print(json.dumps(_open(sys.argv[1])))
