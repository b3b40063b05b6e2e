"""What a rank's exception means to its leader. The errors are the libraries' own, raised by them."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta

import numpy as np
import pytest
import torch
import torch.distributed as dist

from workers.failures import OutOfMemory
from workers.teacher.groups.rank_error import RankError, reraise_as_rank_error


def told(work: Callable[[], object]) -> RankError:
    with pytest.raises(RankError) as caught, reraise_as_rank_error():
        work()
    return caught.value


def out_of_memory() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")


def engine_says_so() -> None:
    raise OutOfMemory("8192 tokens")


@pytest.mark.parametrize(
    "work",
    [
        lambda: torch.empty(1 << 60),
        lambda: np.zeros(1 << 58),
        lambda: bytearray(1 << 62),
        out_of_memory,
        engine_says_so,
    ],
    ids=["torch's CPU allocator", "numpy", "Python", "torch on a GPU", "the engine"],
)
def test_memory(work: Callable[[], object]) -> None:
    error = told(work)
    assert error.kind == "memory", error.text


def test_a_lost_or_late_peer_is_no_cause() -> None:
    def wait_for_nobody() -> None:
        store = dist.TCPStore("127.0.0.1", 0, 2, True, timeout=timedelta(seconds=1), wait_for_workers=False)
        store.get("what nobody sets")

    assert told(wait_for_nobody).kind == "peer"


def test_others_are_errors_and_say_what_and_where() -> None:
    error = told(lambda: {}["experts"])
    assert error.kind == "error"
    assert error.text.startswith("KeyError: 'experts' (groups/test_rank_error.py:")
    assert told(lambda: torch.ones(2) @ torch.ones(3)).kind == "error"


def test_what_is_told_crosses_to_a_process_without_torch() -> None:
    error = told(out_of_memory)
    script = (
        "import pickle, sys; from workers.teacher.groups.rank_error import RankError; "
        f"error = pickle.loads({pickle.dumps(error)!r}); print(error.kind, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["memory", "False"]
