"""Checkpoints of a specialist: DeepSpeed's state of every rank, the cursor, and a pointer that makes them exist.

Layout below `students/NAME/`: `checkpoints/step-00000200/...` holds files, `log/00000200.json` is the pointer, made by
create-if-absent after all ranks have written. Ray's own snapshot is overwritten in place, so it is not used.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch.distributed as dist

from cluster.faults import pause_point
from cluster.lease import Fence
from cluster.storage import Storage


@dataclass(frozen=True)
class CheckpointPointer:
    """A complete checkpoint: where it is and where its training stood."""

    step: int
    tokens: int
    """Target tokens trained on."""
    world: int
    """Workers that wrote it; as many must read it."""
    cursor: dict[str, Any]
    key: str
    history: list[dict[str, float]] = field(default_factory=list)
    """Loss curve so far, thinned."""


class Checkpoints:
    """The checkpoints of one specialist."""

    def __init__(self, storage: Storage, root: str, fence: Fence) -> None:
        self._storage, self._root, self._fence = storage, root, fence

    def latest(self) -> CheckpointPointer | None:
        """The newest complete checkpoint."""
        keys = self._storage.keys(f"{self._root}/log")
        return CheckpointPointer(**json.loads(self._storage.read(keys[-1]))) if keys else None

    def save(self, engine: Any, pointer: CheckpointPointer) -> None:
        """Write all ranks' files, then the pointer; older checkpoints but the last two are deleted. A collective.

        Raises LeaseLost if another driver took the run over: the files and pointers are that one's now.
        """
        self._fence.check()
        with tempfile.TemporaryDirectory(prefix="stillhouse-") as folder:
            engine.save_checkpoint(folder, tag="state", client_state={})
            self._storage.upload_folder(Path(folder), pointer.key)
        pause_point("checkpoint-files")
        dist.barrier()
        if dist.get_rank() == 0:
            self._fence.check()
            self._storage.create(f"{self._root}/log/{pointer.step:08d}.json", json.dumps(asdict(pointer)).encode())
            self._prune()
        dist.barrier()

    def load(self, engine: Any, pointer: CheckpointPointer) -> None:
        """Put a checkpoint's weights and optimiser state into an engine. Raises ValueError for another world size."""
        if pointer.world != dist.get_world_size():
            raise ValueError(
                f"train.workers: the checkpoint of step {pointer.step} was written by {pointer.world} workers and "
                f"{dist.get_world_size()} want to read it; set workers to {pointer.world}"
            )
        with tempfile.TemporaryDirectory(prefix="stillhouse-") as folder:
            self._storage.download_folder(pointer.key, Path(folder))
            engine.load_checkpoint(folder, tag="state")
            dist.barrier()

    def key(self, step: int) -> str:
        return f"{self._root}/checkpoints/step-{step:08d}"

    def _prune(self) -> None:
        for key in self._storage.keys(f"{self._root}/log")[:-2]:
            pointer = CheckpointPointer(**json.loads(self._storage.read(key)))
            self._storage.delete(key)
            self._storage.delete(pointer.key)
