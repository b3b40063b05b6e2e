"""Ranks that wait in vain for another one: told soon where that is asked for, and patient again behind it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import workers

CHECKOUT = Path(workers.__file__).parents[1]
PROGRAM = """
import sys, time
import torch
import torch.distributed as dist
from workers.collectives import waiting_at_most

rank = int(sys.argv[2])
dist.init_process_group("gloo", init_method="file://" + sys.argv[1], rank=rank, world_size=2)
found = torch.ones(())
with waiting_at_most(60, 60):
    dist.all_reduce(found)
time.sleep(4 * rank)  # longer than a step may take, where a step is over
dist.all_reduce(found)
assert float(found) == 4
if rank:
    time.sleep(6)  # hangs in a step
    sys.exit()
began = time.monotonic()
try:
    with waiting_at_most(1.5, 60):
        dist.all_reduce(found)
except TimeoutError as error:
    print(f"after {time.monotonic() - began:.1f} s:", error)
"""


def test_a_rank_that_hangs_is_found_by_those_that_wait(tmp_path: Path) -> None:
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "meeting")]
    ranks = [
        subprocess.Popen([*command, str(rank)], cwd=CHECKOUT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    said = [rank.communicate(timeout=120) for rank in ranks]
    assert "waited 1.5 s in vain for another one of its workers" in said[0][0], said
    assert ranks[1].returncode == 0, said[1][1]


def test_errors_that_are_no_deadline_stay_what_they_are() -> None:
    program = """
import torch.distributed as dist
from workers.collectives import waiting_at_most
try:
    with waiting_at_most(5, 60):
        raise RuntimeError("loss is NaN")
except RuntimeError as error:
    print(type(error).__name__, error)
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=CHECKOUT, capture_output=True, text=True, check=True)
    assert done.stdout == "RuntimeError loss is NaN\n"
