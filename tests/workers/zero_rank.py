"""One worker of two that trains students of a run one after another. Not a test itself.

python zero_rank.py RANK RANKS PORT JOBS.json
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import torch.distributed as dist

from cluster.lease import LeaseLost
from cluster.storage import open_storage
from workers.student.job import SpecialistJob
from workers.student.train_loop import train_specialist
from workers.teacher.loading import join_process_group


def leave_as_killed(run: Path, source: str, name: str, step: int) -> None:
    """A student whose last word is `source`'s checkpoint of `step`, as workers killed after it would leave it."""
    pointer = f"log/{step:08d}.json"
    (run / "students" / name / "log").mkdir(parents=True)
    shutil.copyfile(run / "students" / source / pointer, run / "students" / name / pointer)


def main() -> None:
    rank, ranks, port = map(int, sys.argv[1:4])
    join_process_group(rank, ranks, "127.0.0.1", port, "cpu")
    for fields in json.loads(Path(sys.argv[4]).read_text()):
        killed = fields.pop("killed", None)
        if killed and rank == 0:
            leave_as_killed(Path(fields["run_uri"]), killed["source"], fields["name"], killed["step"])
        dist.barrier()
        job = SpecialistJob.from_fields(fields)
        try:
            train_specialist(job)
        except LeaseLost as lost:
            open_storage(job.run_uri).write(f"{job.root}/lost-{rank}", str(lost).encode())
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
