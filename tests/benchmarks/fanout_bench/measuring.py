"""Wall and CPU-seconds of a command with all processes below it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread
from typing import Any

import psutil

CHECKOUT = Path(__file__).resolve().parents[3]
_LOOK_S = 0.5


@dataclass(frozen=True)
class Took:
    """What a command took, and the JSON that it printed last, if it did."""

    wall_s: float
    cpu_s: float
    said: Any


@contextmanager
def cpu_seconds(pid: int) -> Iterator[dict[int, float]]:
    """CPU-seconds of a process and all below it, by pid, as they grow; those of processes that ended are kept."""
    most: dict[int, float] = {}
    over = Event()

    def look() -> None:
        while not over.wait(_LOOK_S):
            try:
                root = psutil.Process(pid)
                family = [root, *root.children(recursive=True)]
            except psutil.NoSuchProcess:
                continue
            for process in family:
                try:
                    used = process.cpu_times()
                except psutil.NoSuchProcess:
                    continue
                most[process.pid] = used.user + used.system

    thread = Thread(target=look, daemon=True)
    thread.start()
    try:
        yield most
    finally:
        over.set()
        thread.join()


def environment() -> dict[str, str]:
    """Of a program of this checkout."""
    paths = [CHECKOUT, CHECKOUT / "tests", CHECKOUT / "tests" / "benchmarks"]
    return os.environ | {"PYTHONPATH": os.pathsep.join(map(str, paths)), "RAY_AUTH_MODE": "disabled"}


def measured(*command: str) -> Took:
    """Run a Python program of this checkout to its end."""
    began = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, *command], cwd=CHECKOUT, env=environment(), stdout=subprocess.PIPE, text=True
    )
    with cpu_seconds(process.pid) as most:
        said, _ = process.communicate()
    assert process.returncode == 0, f"{command} ended with {process.returncode}\n{said[-3000:]}"
    lines = said.strip().splitlines()
    last = json.loads(lines[-1]) if lines and lines[-1].startswith("{") else None
    return Took(time.monotonic() - began, sum(most.values()), last)
