"""A student's workers as one process group of torch: Ray Train's backend for them.

Ray has one of its own (`ray.train.torch.TorchConfig`), which loads torch wherever it is named: in the process that
starts the workers, too. Here only workers load it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import ray
from ray.exceptions import GetTimeoutError
from ray.train import get_context
from ray.train.backend import Backend, BackendConfig
from ray.util.placement_group import get_current_placement_group

from cluster.network import choose_interface, rendezvous
from cluster.storage import open_storage
from workers.channels.board import Control, Reporter
from workers.channels.events import StudentState
from workers.channels.messages import StudentPlaced
from workers.layout import StudentLayout

_LEAVE_S = 30
"""Seconds for workers to leave their group. One that hangs is ended without."""


@dataclass
class ProcessGroup(BackendConfig):
    """How a student's workers come together; given to the trainer."""

    backend: str
    """`gloo` or `nccl`."""
    timeout_s: int
    """How long ranks wait for each other."""
    board: str
    """Name of the run's board."""
    run_uri: str
    students: tuple[str, ...]
    """Those that these workers train, one after another."""

    @property
    def backend_cls(self) -> type[Backend]:
        """Which Ray Train makes one of."""
        return _Formation

    @property
    def train_func_context(self) -> Any:
        """Around the training function, in its thread."""
        return on_its_device

    def to_dict(self) -> dict[str, Any]:
        """What Ray Train shows of it."""
        return {"backend": self.backend, "timeout_s": self.timeout_s}


class _Formation(Backend):
    """Runs where the workers are started."""

    share_cuda_visible_devices = True
    """Workers of a node see each other's devices, as NCCL wants it."""

    def on_start(self, worker_group: Any, backend_config: ProcessGroup) -> None:
        """The workers' processes are there; they load torch now, which takes long enough to be told."""
        address, port, place = worker_group.execute_single(0, meeting_point)
        student = next_student(backend_config)
        Control(backend_config.board)(StudentPlaced(student, place))
        world = len(worker_group)
        Reporter(backend_config.board)(StudentState(student=student, state="loading", workers=world))
        settings = (world, address, port, backend_config.backend, backend_config.timeout_s, student)
        ray.get([worker_group.execute_single_async(rank, join, rank, *settings) for rank in range(world)])

    def on_shutdown(self, worker_group: Any, backend_config: ProcessGroup) -> None:
        try:
            ray.get(worker_group.execute_async(leave), timeout=_LEAVE_S)
        except GetTimeoutError:  # they wait for a rank that is gone, and are ended as they are
            return


def next_student(config: ProcessGroup) -> str:
    """The first student that is not done: workers come together anew after each loss and change of number."""
    storage = open_storage(config.run_uri)
    left = [name for name in config.students if not storage.exists(StudentLayout(name).done)]
    return (left or config.students[-1:])[0]


def meeting_point() -> tuple[str, int, str]:
    """On rank 0: its node's address, a free port there, and the id of the placement group of all workers."""
    address, port = rendezvous(ray.util.get_node_ip_address())
    group = get_current_placement_group()
    return address, port, group.id.hex() if group is not None else ""


def join(rank: int, world: int, address: str, port: int, backend: str, timeout_s: int, student: str) -> None:
    """On each worker: become a rank. The environment is as torchrun leaves it, which DeepSpeed and others read."""
    here = get_context()
    os.environ |= {
        "MASTER_ADDR": address,
        "MASTER_PORT": str(port),
        "RANK": str(rank),
        "WORLD_SIZE": str(world),
        "LOCAL_RANK": str(here.get_local_rank()),
        "LOCAL_WORLD_SIZE": str(here.get_local_world_size()),
        "NODE_RANK": str(here.get_node_rank()),
    }
    choose_interface(ray.util.get_node_ip_address())
    if backend == "nccl" and "TORCH_NCCL_BLOCKING_WAIT" not in os.environ:
        os.environ.setdefault("TORCH_NCCL_ASYNC_ERROR_HANDLING", "1")  # a collective that timed out ends its rank
    keep_record(student)
    import torch.distributed as dist

    with on_its_device():
        dist.init_process_group(backend, "env://", timeout=timedelta(seconds=timeout_s), rank=rank, world_size=world)


def keep_record(student: str) -> None:
    """Let a rank that waits in vain for a collective of NCCL leave its last ones beside Ray's logs of its node, in
    `nccl-STUDENT-rank-N`: torch's flight recorder, which `torchfrtrace` reads. Torch's own place is one for all
    students of a node."""
    here = ray.get_runtime_context()
    prefix = os.path.join(here.get_temp_dir(), here.get_session_name(), "logs", f"nccl-{student}-rank-")
    os.environ.setdefault("TORCH_FR_DUMP_TEMP_FILE", prefix)
    os.environ.setdefault("TORCH_NCCL_DUMP_ON_TIMEOUT", "1")


def leave() -> None:
    """On each worker: end the process group, so that the others' sockets are closed in order."""
    import torch.distributed as dist

    if dist.is_initialized() and dist.get_world_size() > 1:
        dist.destroy_process_group()


@contextmanager
def on_its_device() -> Iterator[None]:
    """With the worker's accelerator as the current device of this thread, where it has one."""
    import torch

    if torch.cuda.is_available():
        from ray.train.torch import get_device

        device = get_device()
        if device.type == "cuda":
            torch.cuda.set_device(device)
    yield
