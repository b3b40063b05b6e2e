"""What many micro-batches add up to where weights are bfloat16: its eight bits would swallow small ones."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[4]
PROGRAM = """
import sys

import deepspeed
import torch
import torch.distributed as dist

from workers.student.config import TrainConfig
from workers.student.training.engine import engine_over

deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
dist.init_process_group("gloo", init_method="file://" + sys.argv[1], rank=0, world_size=1)
model = torch.nn.Linear(1, 1, bias=False, dtype=torch.bfloat16)
zero = sys.argv[2] if sys.argv[2] == "auto" else int(sys.argv[2])
engine = engine_over(model, TrainConfig(zero=zero, clip=1e9), "bfloat16")
inputs = [1.0] + [2.0**-9] * 256
for i, x in enumerate(inputs):
    engine.set_gradient_accumulation_boundary(i == len(inputs) - 1)
    engine.backward(engine(torch.tensor([[x]], dtype=torch.bfloat16)).sum())
    engine.step()
print("norm", float(engine.get_global_grad_norm()))
"""


@pytest.mark.parametrize("zero", ["auto", "2", "3"])
def test_small_gradients_behind_a_large_one_are_not_lost(zero: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    """256 times 2^-9 beside 1, which has no room for one of them."""
    meeting = tmp_path_factory.mktemp("ranks") / "meeting"
    command = [sys.executable, "-c", PROGRAM, str(meeting), zero]
    ranks = os.environ | {"LOCAL_RANK": "0"}
    said = subprocess.run(command, env=ranks, cwd=CHECKOUT, capture_output=True, text=True, check=True).stdout
    norm = next(float(line.split()[1]) for line in said.splitlines() if line.startswith("norm"))
    assert norm == 1.5
