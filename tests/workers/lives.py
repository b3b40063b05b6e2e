"""Lives of students' workers: each is trained by so many workers, which may be killed at a point. Not a test itself.

python lives.py LIVES.json, a list of {job, ranks, pause}: a SpecialistJob's fields, how many workers, and the point at
which all of them are killed (null: none). One process loads the libraries, and is forked for every worker.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ["DS_ACCELERATOR"] = "cpu"

# All that a worker imports by and by is imported before the forks.
import deepspeed.runtime.zero.muon.original_muon
import pandas  # noqa: F401
import torch
import torch._inductor.compile_fx
import transformers.models.qwen3.modeling_qwen3  # noqa: F401
from deepspeed.checkpoint import ds_to_universal  # noqa: F401

import workers.student.batching
import workers.student.checkpoint
import workers.student.model  # noqa: F401
from workers.student.job import SpecialistJob
from workers.student.train_loop import train_specialist
from workers.teacher.loading import join_process_group


def live(job: dict[str, Any], ranks: int, pause: str | None) -> None:
    """One life: returns when all workers have ended, or when one stood at the point and all were killed."""
    with socket.socket() as probe, tempfile.TemporaryDirectory() as marks:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        if pause:
            os.environ.update(STILLHOUSE_PAUSE_AT=pause, STILLHOUSE_PAUSE_DIR=marks)
        else:
            os.environ.pop("STILLHOUSE_PAUSE_AT", None)
        children = {_fork(job, rank, ranks, port) for rank in range(ranks)}
        try:
            deadline = time.monotonic() + 120
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
        join_process_group(rank, ranks, "127.0.0.1", port, "cpu")
        train_specialist(SpecialistJob.from_fields(job))
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
        live(one["job"], one["ranks"], one["pause"])
        print(
            f"{one['job']['name']}: {one['ranks']} workers, {one['pause']}: {time.monotonic() - began:.1f} s",
            flush=True,
        )


if __name__ == "__main__":
    main()
