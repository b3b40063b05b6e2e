"""Lives of students' workers: each is trained by so many workers, which may be killed at a point. Not a test itself.

python student_lifetimes.py LIVES.json, a list of {job, ranks, pause, after}: a SpecialistJob's fields, how many
workers, the point at which all of them are killed (null: none), and the other student and its step whose checkpoint is
all that an earlier life left (null: what it left). One process loads the libraries, and is forked for every worker.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import socket
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("DS_ACCELERATOR", "cpu")

# All that a worker imports by and by is imported before the forks.
import deepspeed.runtime.zero.muon.original_muon
import pandas  # noqa: F401
import torch
import torch._inductor.compile_fx
import transformers.models.qwen3.modeling_qwen3  # noqa: F401

import workers.student.batches.batching
import workers.student.checkpoints.checkpoint
import workers.student.models.student_model  # noqa: F401
from cluster.lease import LeaseLost
from cluster.storage import open_storage
from workers.student.training.job import SpecialistJob
from workers.student.training.train_loop import train_specialist
from workers.teacher.engines.loading import join_process_group


def leave_as_killed(fields: dict[str, Any], source: str, step: int) -> None:
    """A student whose last word is `source`'s checkpoint of `step`, as workers killed after it would leave it."""
    students, pointer = Path(fields["run_uri"]) / "students", f"log/{step:08d}.json"
    (students / fields["name"] / "log").mkdir(parents=True)
    shutil.copyfile(students / source / pointer, students / fields["name"] / pointer)


def free_port() -> int:
    """A port on which nobody listens, and which no connection takes meanwhile: those get their own from 32768 up."""
    for port in random.sample(range(20_000, 32_000), 100):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise OSError("no free port among 100")


def live(job: dict[str, Any], ranks: int, pause: str | None) -> None:
    """One life: returns when all workers have ended, or when one stood at the point and all were killed."""
    port = free_port()
    with tempfile.TemporaryDirectory() as marks:
        if pause:
            os.environ.update(STILLHOUSE_PAUSE_AT=pause, STILLHOUSE_PAUSE_DIR=marks)
        else:
            os.environ.pop("STILLHOUSE_PAUSE_AT", None)
        children = {_fork(job, rank, ranks, port) for rank in range(ranks)}
        try:
            deadline = time.monotonic() + 300
            while children and not list(Path(marks).iterdir()):
                assert time.monotonic() < deadline, f"{job['name']}: no end, and nobody came to {pause}"
                for child in list(children):
                    ended, status = os.waitpid(child, os.WNOHANG)
                    if ended:
                        children.remove(child)
                        assert status == 0, f"{job['name']}: a worker ended with {status}"
                time.sleep(0.02)
            assert bool(children) == bool(pause), f"{job['name']}: nobody came to {pause}"
        finally:
            for child in children:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)


def _fork(job: dict[str, Any], rank: int, ranks: int, port: int) -> int:
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        join_process_group(rank, ranks, "127.0.0.1", port, os.environ["DS_ACCELERATOR"])
        specialist = SpecialistJob.from_fields(job)
        try:
            train_specialist(specialist)
        except LeaseLost as lost:
            open_storage(specialist.run_uri).write(f"{specialist.layout.root}/lost-{rank}", str(lost).encode())
        torch.distributed.barrier()
        status = 0
    finally:
        if status:
            sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def main() -> None:
    torch.set_num_threads(1)
    assert deepspeed.ops.__compatible_ops__  # looks for compilers, once
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    for one in json.loads(Path(sys.argv[1]).read_text()):
        began = time.monotonic()
        if one["after"]:
            leave_as_killed(one["job"], *one["after"])
        live(one["job"], one["ranks"], one["pause"])
        print(
            f"{one['job']['name']}: {one['ranks']} workers, {one['pause']}: {time.monotonic() - began:.1f} s",
            flush=True,
        )


if __name__ == "__main__":
    main()
