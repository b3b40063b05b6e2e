"""Running `rank.py` alone or as a pair, and adding up what the processes say."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).resolve().parents[3]
_PROGRAM = Path(__file__).with_name("rank.py")


def run_ranks(kind: str, model: Path, texts: Path, *, ranks: int, threads: int) -> dict[str, Any]:
    """The figures of all ranks: tokens and CPU-seconds summed, the longest wall time, the most of the others."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = os.environ | {
        "PYTHONPATH": str(CHECKOUT), "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": str(threads),
        "DS_ACCELERATOR": "cpu", "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    }  # fmt: skip
    processes = [
        subprocess.Popen(
            [sys.executable, str(_PROGRAM), kind, str(model), str(texts), *map(str, (rank, ranks, threads, port))],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        for rank in range(ranks)
    ]
    said = [process.communicate()[0] for process in processes]
    assert all(process.returncode == 0 for process in processes), f"{kind} over {ranks} ranks failed"
    found = [json.loads(text.splitlines()[-1]) for text in said]
    summed = {"tokens", "cpu_s"}
    return {name: (sum if name in summed else max)(f[name] for f in found) for name in found[0]}
