"""What of the ranks' errors is told, and which of them is worth another try."""

from __future__ import annotations

import pytest

from cluster.lease import LeaseLost
from orchestrator.supervisor import first_failure, root_cause
from workers.targets.damage import DamagedStore


class WorkerHealthCheckFailedError(Exception):
    """Named as Ray's."""


DIED = WorkerHealthCheckFailedError("A worker health check failed.\nThe actor died: node 10.0.0.7 was lost")
RESET = RuntimeError("[gloo] Connection reset by peer")


@pytest.mark.parametrize(
    "own",
    [
        FloatingPointError("legal: the loss of step 3 is nan"),
        LeaseLost("attempt 1 was taken over by attempt 2"),
        ValueError("train.zero: the checkpoint was written by ZeRO-3"),
        DamagedStore("unit 1: the bytes of its part are not those that were committed"),
    ],
)
def test_an_error_of_the_training_itself_comes_first_and_would_come_again(own: Exception) -> None:
    failure = first_failure([RESET, DIED, own])
    assert failure is not None and not failure.worth_another
    assert failure.cause == f"{type(own).__name__}: {own}"


def test_a_death_comes_before_what_follows_from_it() -> None:
    failure = first_failure([RESET, DIED])
    assert failure is not None and failure.worth_another
    assert failure.cause.startswith("a worker died, or its node was lost: ") and "10.0.0.7 was lost" in failure.cause


def test_any_other_error_is_named_with_its_class() -> None:
    failure = first_failure([KeyError("foo")])
    assert failure is not None and failure.worth_another and failure.cause == "KeyError: 'foo'"
    assert first_failure([]) is None


def test_memory_of_a_node_and_of_an_accelerator_have_their_own_remedies() -> None:
    node = root_cause("Task was killed due to the node running low on memory.")
    accelerator = root_cause("OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB")
    assert "its node ran out of memory" in node and "teachers.*.score_tokens" in node
    assert "an accelerator's memory" in accelerator and "gradient_checkpointing" in accelerator
