"""A run sent to a real Ray head by the command that the README types, with the working directory shipped."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from end_to_end.small_job import CHECKOUT, Job


@pytest.fixture
def head(tmp_path: Path) -> Iterator[str]:
    """The job server's address of a Ray head of our own, ended by the processes it was started with."""
    with socket.socket() as one, socket.socket() as two:
        one.bind(("127.0.0.1", 0))
        two.bind(("127.0.0.1", 0))
        port, dashboard = one.getsockname()[1], two.getsockname()[1]
    ray = Path(sys.executable).with_name("ray")
    command = [
        str(ray),
        "start",
        "--head",
        "--block",
        f"--port={port}",
        f"--dashboard-port={dashboard}",
        "--num-cpus=4",
    ]
    with (tmp_path / "head.log").open("wb") as log:
        # A head of a cluster has the project installed, and its commands on the path.
        path = os.pathsep.join([str(ray.parent), os.environ["PATH"]])
        process = subprocess.Popen(
            command, stdout=log, stderr=log, start_new_session=True, env=os.environ | {"PATH": path}
        )
    address = f"http://127.0.0.1:{dashboard}"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", dashboard)) == 0:
                break
        time.sleep(0.5)
    yield address
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    for member in family:
        if member.is_running():
            member.kill()
    psutil.wait_procs(family, timeout=20)


@pytest.mark.long
def test_a_submitted_run_ends_with_its_report(head: str, teacher: Path, tmp_path: Path) -> None:
    job = Job(tmp_path / "sent", teacher)
    (job.folder / "job.yaml").rename(job.folder / "run.yaml")
    done = subprocess.run(
        [sys.executable, "-m", "orchestrator", "submit", "run.yaml", "--address", head],
        cwd=job.folder, capture_output=True, text=True, timeout=900, env=os.environ | {"PYTHONPATH": str(CHECKOUT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "held-out KL" in done.stdout and "SUCCEEDED" in done.stdout
    report = json.loads((job.folder / "runs" / "job" / "report.json").read_text())
    assert report["students"]["medical"]["heldout"]["kl"] < report["students"]["medical"]["initial"]["kl"]
