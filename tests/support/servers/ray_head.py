"""A Ray head of our own, as a child process with its own ports and folder.

It is ended by the process ids that it was started with, never by name: other Rays may run here too.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

RAY = Path(sys.executable).with_name("ray")
HEAD_START_S = 90
PORT_OPTIONS = [  # all that `ray start --head` listens on
    *("port", "dashboard-port", "dashboard-agent-listen-port", "dashboard-agent-grpc-port"),
    *("runtime-env-agent-port", "metrics-export-port", "ray-client-server-port"),
    *("object-manager-port", "node-manager-port"),
]


@dataclass(frozen=True)
class Head:
    """Addresses of a head."""

    jobs: str
    """Of its dashboard, which takes jobs."""
    ray: str
    """Of its GCS, where programs connect."""


@contextmanager
def ray_head(cpus: int, workers: int = 16) -> Iterator[Head]:
    """A head that lives as long as the block. `workers`: processes it can start."""
    folder = tempfile.mkdtemp(prefix="sh-", dir="/tmp")  # Ray's socket paths have to stay under 108 characters
    ports = free_ports(len(PORT_OPTIONS) + workers)
    options = [f"--{name}={port}" for name, port in zip(PORT_OPTIONS, ports, strict=False)]
    options += ["--worker-port-list=" + ",".join(map(str, ports[len(PORT_OPTIONS) :]))]
    options += [
        "--dashboard-host=127.0.0.1",
        "--include-dashboard=true",
        f"--num-cpus={cpus}",
        f"--temp-dir={folder}",
    ]
    options += ["--object-store-memory=80000000", "--include-log-monitor=false", "--disable-usage-stats"]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    address = f"http://127.0.0.1:{ports[PORT_OPTIONS.index('dashboard-port')]}"
    with open(Path(folder, "head.log"), "wb") as log:
        process = subprocess.Popen(
            [RAY, "start", "--head", "--block", *options],
            # No memory monitor: it would end our jobs when a neighbour on the machine takes the memory.
            # A head of a cluster has the project installed, and its commands on the path.
            env={
                **clean,
                "PATH": os.pathsep.join([str(RAY.parent), os.environ["PATH"]]),
                "RAY_AUTH_MODE": "disabled",
                "RAY_TMPDIR": folder,
                "RAY_memory_monitor_refresh_ms": "0",
            },
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        wait_for(lambda: process.poll() is not None or answers(address), HEAD_START_S, "the head's dashboard")
        assert process.poll() is None, Path(folder, "head.log").read_text()
        yield Head(address, f"127.0.0.1:{ports[PORT_OPTIONS.index('port')]}")
    finally:
        left = end(process)
        named = mentioning(folder)
        shutil.rmtree(folder, ignore_errors=True)
    assert not left and not named, (left, named)


def free_ports(count: int) -> list[int]:
    """Ports that were free together a moment ago (held at once, so that none is given twice)."""
    sockets = [socket.socket() for _ in range(count)]
    for held in sockets:
        held.bind(("127.0.0.1", 0))
    ports = [held.getsockname()[1] for held in sockets]
    for held in sockets:
        held.close()
    return ports


def family(head: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """The head, its descendants, and what belongs to its session."""
    found = {}
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == head.pid:
                found[process.pid] = process
        except (ProcessLookupError, PermissionError):
            continue
    for process in list(found.values()):
        try:
            # A job's command runs in a session of its own: only its parents tell that it is ours.
            found |= {child.pid: child for child in process.children(recursive=True)}
        except psutil.NoSuchProcess:
            continue
    return list(found.values())


def end(head: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """End the head and all that it started; returns what did not go."""
    processes = family(head)
    head.terminate()  # `ray start --block` passes it on
    _, alive = psutil.wait_procs(processes, timeout=10)
    for process in alive:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    head.wait(timeout=10)
    return psutil.wait_procs(alive, timeout=10)[1] + family(head)


def mentioning(text: str) -> list[str]:
    """Command lines that contain `text`: all of a Ray session name its folder. For looking only."""
    lines = (" ".join(process.info["cmdline"] or []) for process in psutil.process_iter(["cmdline"]))
    return [line for line in lines if text in line]


def answers(address: str) -> bool:
    host, port = address.removeprefix("http://").split(":")
    with closing(socket.socket()) as probe:
        return probe.connect_ex((host, int(port))) == 0


def wait_for(condition: Callable[[], Any], seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds} s for {what}"
        time.sleep(0.1)
