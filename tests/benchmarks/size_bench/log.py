"""What the start of a run costs on a log of 100,000 committed units, with and without digests of the log.

Asked is what a start asks: which units are planned and neither committed nor damaged. Entries and parts are synthetic,
of the size of real ones, but for the parts' bytes. S3 is a server on this machine (SeaweedFS if `weed` is installed,
else moto's): its times are those of a near, slow server, and only the numbers of requests carry over.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
from log_bench.entries import fill_bucket, fill_folder
from support.servers.s3_servers import WEED, moto, reached_at, seaweed

from cluster.storage import Storage, open_storage
from workers.layout import LogLayout, StoreLayout
from workers.splits import TRAIN
from workers.targets.commits.log import TargetLog

ROOT = StoreLayout(TRAIN).root
LAYOUT = LogLayout(ROOT)
_SENT_TOGETHER = 1_000
_HUNDRED_THOUSAND = 100_000


def arguments(parser: argparse.ArgumentParser) -> None:
    """What can be said of this measurement on the command line."""
    parser.add_argument("--log-units", type=int, default=_HUNDRED_THOUSAND, help="committed units in the log")
    parser.add_argument("--log-fill-s", type=float, default=360.0, help="seconds to fill the bucket at most")


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Seconds, requests and memory to open the log: before (no digests), and with those that the first start left.

    If the bucket could not be filled in time, the figures of S3 are scaled from the units that it has (`log_s3_units`).
    """
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="stillhouse-") as folder:
        fill_folder(Path(folder), 0, arguments.log_units)
        for name, value in _before_and_after(folder).items():
            found[f"log_local_{name}"] = value
    name, server = ("SeaweedFS", seaweed) if WEED.exists() else ("moto", moto)
    with server() as endpoint, reached_at(endpoint) as bucket:
        uri = f"{bucket}/run"
        units = _fill_bucket(open_storage(uri), arguments.log_units, arguments.log_fill_s)
        scale = arguments.log_units / units
        for key, value in _before_and_after(uri).items():
            found[f"log_{key}"] = value if key.endswith("_mb") else _scaled(value, scale)
    return found | {"log_s3_server": name, "log_s3_units": units, "log_units": arguments.log_units}


def _before_and_after(uri: str) -> dict[str, float]:
    """A start without digests, the one that makes them, and the next; each in a process of its own."""
    before, making, after = (_in_a_process(uri, how) for how in ("read", "make", "read"))
    size = "100k"
    return {
        f"open_s_{size}_before": before["seconds"],
        f"open_requests_{size}_before": before["requests"],
        f"open_mb_{size}_before": before["mb"],
        f"digest_s_{size}": making["seconds"],
        f"digest_requests_{size}": making["requests"],
        f"open_s_{size}": after["seconds"],
        f"open_requests_{size}": after["requests"],
        f"open_mb_{size}": after["mb"],
        f"list_s_{size}": after["list_s"],
    }


def _in_a_process(uri: str, how: str) -> dict[str, float]:
    import subprocess

    command = [sys.executable, "-m", "size_bench.log", uri, how]
    run = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[1])
    if run.returncode:
        raise RuntimeError(run.stderr)
    result: dict[str, float] = json.loads(run.stdout)
    return result


def _open(uri: str, how: str) -> dict[str, float]:
    """All entries once, as the start of a run reads them; with `make` it leaves digests."""
    with _counted() as requests:
        log = TargetLog(open_storage(uri), ROOT)
        memory, started = _memory_mb(), time.monotonic()
        units = sum(len(entry.parts) for entry in log.each(digest=how == "make"))
        seconds, asked, grown = time.monotonic() - started, requests.total(), _memory_mb() - memory
        started = time.monotonic()
        assert len(log.committed()) == units
    return {
        "seconds": round(seconds, 2),
        "requests": asked,
        "mb": round(grown, 1),
        "list_s": round(time.monotonic() - started, 2),
    }


@contextmanager
def _counted() -> Iterator[Counter[str]]:
    """Requests to S3 by operation, as they are sent (tries that are repeated count each)."""
    from aiobotocore.endpoint import AioEndpoint

    requests: Counter[str] = Counter()
    original = AioEndpoint._send

    async def counted(self: AioEndpoint, request: Any) -> Any:
        requests[request.method] += 1
        return await original(self, request)

    AioEndpoint._send = counted
    yield requests
    AioEndpoint._send = original


def _fill_bucket(storage: Storage, units: int, seconds: float) -> int:
    """Entries as objects; returns how many there was time for."""
    started = time.monotonic()
    for first in range(0, units, _SENT_TOGETHER):
        if time.monotonic() - started > seconds:
            return first
        fill_bucket(storage, first, min(first + _SENT_TOGETHER, units))
    return units


def _scaled(value: float, scale: float) -> float:
    return value if scale == 1 else round(value * scale, 2)


def _memory_mb() -> float:
    return psutil.Process().memory_info().rss / (1 << 20)


if __name__ == "__main__":
    if len(sys.argv) == 3 and sys.argv[2] in ("read", "make"):
        print(json.dumps(_open(*sys.argv[1:])))
    else:
        parser = argparse.ArgumentParser(description=__doc__)
        arguments(parser)
        print(json.dumps(measure(parser.parse_args())))
