"""`stillhouse validate` and `plan` on very many prompts, in a folder and on an S3 server of this machine."""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from support.servers.s3_servers import BUCKET, KEYS, seaweed

from cluster.storage import open_storage
from size_bench import TESTS
from size_bench.chats import write_chats, write_config

_REPEATS = 3


def arguments(parser: argparse.ArgumentParser) -> None:
    """What it takes from the command line."""
    parser.add_argument("--checked-rows", type=int, default=5_000_000, help="prompts to validate and to plan")


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Its figures."""
    with tempfile.TemporaryDirectory(prefix="stillhouse-") as name, seaweed() as endpoint:
        folder = Path(name)
        os.environ |= KEYS | {"AWS_ENDPOINT_URL": endpoint}
        (folder / "prompts").mkdir()
        prompts = write_chats(folder / "prompts" / "chats.jsonl", args.checked_rows, args.model)
        open_storage(f"s3://{BUCKET}").upload_folder(prompts.parent, "prompts")
        figures: dict[str, Any] = {"checked_rows": args.checked_rows, "checked_mb": prompts.stat().st_size / 1e6}
        for where, path in (("", str(prompts)), ("_s3", f"s3://{BUCKET}/prompts/chats.jsonl")):
            config = write_config(folder / "run.yaml", args.model, path, str(folder / "runs"))
            for command in ("validate", "plan"):
                seconds, peak = _timed(command, config)
                figures |= {f"{command}{where}_s": seconds, f"{command}{where}_peak_mb": peak}
    return figures


def _timed(command: str, config: Path) -> tuple[float, float]:
    """Seconds of a command (a median) and the most memory that it had, in MB."""
    code = (
        "import sys; from orchestrator.cli.app import main\n"
        "def peak(): return next(l.split()[1] for l in open('/proc/self/status') if l.startswith('VmHWM'))\n"
        "try: main()\n"
        "finally: print('peak', float(peak()) / 1e3, file=sys.stderr)"
    )
    times, peaks = [], []
    for _ in range(_REPEATS):
        began = time.perf_counter()
        child = subprocess.run(
            [sys.executable, "-c", code, command, str(config)], capture_output=True, text=True, cwd=TESTS.parent
        )
        times.append(time.perf_counter() - began)
        peaks.append(float(child.stderr.splitlines()[-1].split()[1]))
        assert child.returncode in (0, 1), child.stderr
    return statistics.median(times), max(peaks)
