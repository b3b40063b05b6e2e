"""What errors of other processes mean: their kind, which the others follow from, and the line that a run ends with."""

from __future__ import annotations

import pytest

from cluster.lease import LeaseLost
from orchestrator.stages.training.supervisor import NON_RETRYABLE
from workers.failures import OutOfMemory, death, end_of_actor, first_cause, first_failure, kind_of, last_line
from workers.targets.commits.damage import DamagedStore

RAY_DATA = """ray::TeacherPool.capture() (pid=1)
ray.exceptions.RayTaskError(UserCodeException): ray::MapWorker(MapBatches(Replica)).submit() (pid=2)
  File "replica.py", line 9, in _capture
    raise DamagedStore(text)
workers.targets.commits.damage.DamagedStore: the table is lost: put it back

The above exception was the direct cause of the following exception:

ray::MapWorker(MapBatches(Replica)).submit() (pid=2)
ray.exceptions.UserCodeException: UDF failed to process a data block.
To change retry attempts, configure `ray.data.DataContext.get_current()`"""


class Remote(Exception):
    """As Ray's: the cause is an attribute."""

    def __init__(self, text: str, cause: BaseException | None) -> None:
        super().__init__(text)
        self.cause = cause


def test_the_innermost_cause_is_told() -> None:
    assert first_cause(Remote("outer", Remote("inner", KeyError("which")))) == "KeyError: 'which'"
    chained = RuntimeError("outer")
    chained.__cause__ = ValueError("what was wrong")
    assert first_cause(chained) == "ValueError: what was wrong"
    assert first_cause(ValueError()) == "ValueError: no message"


def test_what_a_replica_raised_is_told_and_not_how_ray_data_wraps_it() -> None:
    wrapped = Remote(RAY_DATA, RuntimeError("UDF failed\nTo change retry attempts, configure"))
    assert first_cause(wrapped) == "DamagedStore: the table is lost: put it back"
    assert first_cause(Remote("outer", wrapped)) == "DamagedStore: the table is lost: put it back"


def test_a_full_disk_is_told_with_what_to_do() -> None:
    full = OSError(28, "No space left on device", "runs/job/students/legal/checkpoints/state")
    said = "OSError: [Errno 28] No space left on device: 'runs/job/students/legal/checkpoints/state'; free some of it"
    assert first_cause(Remote("outer", full)).startswith(said)
    failure = first_failure([RESET, full], NON_RETRYABLE)
    assert failure is not None and failure.cause.startswith(said)
    assert last_line(f"Traceback\n{full!r}").endswith("the same command resumes")


def test_how_an_actor_died_is_told_in_words_and_what_it_raised_is_not_taken_for_it() -> None:
    class RayActorError(Exception):
        pass

    class RayTaskError(RayActorError):
        """As Ray's, which are of the kind of their cause too."""

    page = "The actor died unexpectedly\nsome common causes include: (1) the OOM killer"
    assert end_of_actor(RayActorError(page)) == "died (killed, crashed, or ended by the kernel for its memory)"
    assert end_of_actor(RayActorError("its node has died")) == "was lost with its node"
    assert end_of_actor(RayTaskError(page)) is None and end_of_actor(ValueError("no")) is None


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
    failure = first_failure([RESET, DIED, own], NON_RETRYABLE)
    assert failure is not None and not failure.retryable
    assert failure.cause == f"{type(own).__name__}: {own}"


def test_a_death_comes_before_what_follows_from_it() -> None:
    failure = first_failure([RESET, DIED], NON_RETRYABLE)
    assert failure is not None and failure.retryable
    assert failure.cause.startswith("a worker died, or its node was lost: ") and "10.0.0.7 was lost" in failure.cause


def test_a_death_is_told_without_the_page_that_ray_has_for_it() -> None:
    page = "Worker exit type: SYSTEM_ERROR Worker exit detail: it exits. Some common causes include: (1) the OOM killer"
    died = WorkerHealthCheckFailedError(f"failed\nThe actor is dead because its worker process has died. {page}")
    failure = first_failure([died], NON_RETRYABLE)
    said = "a worker died, or its node was lost: The actor is dead because its worker process has died"
    assert failure is not None and failure.cause == said


def test_any_other_error_is_named_with_its_class() -> None:
    failure = first_failure([KeyError("foo")], NON_RETRYABLE)
    assert failure is not None and failure.retryable and failure.cause == "KeyError: 'foo'"
    assert first_failure([], NON_RETRYABLE) is None


def test_memory_of_a_node_and_of_an_accelerator_have_their_own_remedies() -> None:
    node = last_line("Task was killed due to the node running low on memory.")
    accelerator = last_line("OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB")
    assert "its node ran out of memory" in node and "teachers.*.score_tokens" in node
    assert "an accelerator's memory" in accelerator and "gradient_checkpointing" in accelerator


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (OutOfMemory("4 texts"), "memory"),
        (MemoryError(), "memory"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), "memory"),
        (OSError("Cannot allocate memory"), "memory"),
        (RuntimeError("[gloo] Connection reset by peer"), "peer"),
        (ConnectionResetError("Broken pipe"), "peer"),
        (ValueError("out of memory, says a prompt"), "error"),
        (KeyError("experts"), "error"),
    ],
)
def test_the_kind_of_an_error(error: Exception, kind: str) -> None:
    assert kind_of(error) == kind


def test_how_an_actor_died() -> None:
    assert death("Task was killed due to the node running low on memory.")[0] == "memory"
    kind, how = death("The actor died because its node has died.")
    assert kind == "dead" and "node" in how
    assert death("The worker process exited unexpectedly (SIGKILL).")[0] == "dead"
