"""Checkpoints of a specialist: DeepSpeed's state of every rank, the cursor, and a pointer that makes them exist.

Layout below `students/NAME/`: `checkpoints/step-00000200-3f9c01d2/...` holds files, `log/00000200.json` is the pointer,
made after all ranks have written. Each save has a folder of its own, so that what a killed one left never mixes with a
later one's; a folder that no pointer names is deleted. Ray's own snapshot is overwritten in place, so it is not used.

`groups/000003` says that the third group of workers trains this student. An older one that was thought dead (its node
was cut off, but reaches the storage) finds it there, and writes nothing more.
"""

from __future__ import annotations

import json
import secrets
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch.distributed as dist

from cluster.faults import pause_point
from cluster.lease import Fence, LeaseLost
from cluster.storage import Storage, local_folder
from workers.layout import StudentLayout
from workers.student.checkpoints.resharding import convert, load_converted
from workers.student.checkpoints.whole_checkpoint import load_universal, load_whole, save_whole, to_universal

TAG = "state"
"""DeepSpeed's folder of one checkpoint."""


@dataclass(frozen=True)
class CheckpointPointer:
    """A complete checkpoint: where it is and where its training stood."""

    step: int
    tokens: int
    """Target tokens trained on."""
    world: int
    """Workers that wrote it."""
    zero: int
    """DeepSpeed ZeRO stage that wrote it; 0 for a worker alone, whose file holds each parameter whole."""
    loss: float
    """Mean training loss of the steps since the checkpoint before. A domain's texts are read once before any is read
    again, so in the first epoch this is the loss on texts not seen before, close to a held-out one."""
    cursor: dict[str, Any]
    key: str
    history: list[dict[str, float]] = field(default_factory=list)
    """Loss curve so far, thinned."""
    before: dict[str, Any] | None = None
    """KL to the teacher before the first step (workers.first_kl.FirstKl); None where it was not measured."""
    since: tuple[int, float] = (0, 0.0)
    """Of one that was asked for between two that were due: the steps since the last of those, and the sum of their
    losses. It is never the best one: its mean is of few steps."""
    above: int = 0
    """Checks in a row, up to this one, at which the loss was far above that of the first step."""
    waited_s: float = 0.0
    """Seconds that its steps waited for their texts."""


class Checkpoints:
    """The checkpoints of one specialist: the last two and the best one. `say` tells what a person should know."""

    def __init__(
        self, storage: Storage, layout: StudentLayout, fence: Fence, say: Callable[[str], None] = lambda _: None
    ) -> None:
        self._storage, self._layout, self._fence, self._say = storage, layout, fence, say
        self._group = ""

    def check(self) -> None:
        """Raise LeaseLost if another driver took the run over, or later workers this student."""
        self._fence.check()
        if (newest := self._storage.keys(self._layout.groups)[-1:]) != [self._group]:
            raise LeaseLost(f"{self._layout.root}: the workers {self._group} were taken for dead; {newest} are at work")

    def pointers(self) -> list[CheckpointPointer]:
        """The complete checkpoints, oldest first."""
        keys = self._storage.keys(self._layout.pointers)
        return [CheckpointPointer(**json.loads(self._storage.read(key))) for key in keys]

    def resume(self, engine: Any) -> CheckpointPointer | None:
        """Load the newest complete checkpoint, and delete what killed saves and loads have left. A collective.

        From here on these workers are the ones that train this student. None if there is none. Raises LeaseLost if
        another driver took the run over.
        """
        self._fence.check()
        self._group = _from_first(self._take_over() if dist.get_rank() == 0 else "")
        pointer: CheckpointPointer | None = _from_first(self._newest_whole() if dist.get_rank() == 0 else None)
        if pointer is not None:
            self.load(engine, pointer)
        self.check()
        if dist.get_rank() == 0:
            self._tidy()
        return pointer

    def _take_over(self) -> str:
        """The key that makes these workers the newest."""
        while True:
            keys = self._storage.keys(self._layout.groups)
            key = self._layout.group(int(keys[-1].rsplit("/", 1)[-1]) + 1 if keys else 1)
            if self._storage.create(key, b""):
                return key

    def _newest_whole(self) -> CheckpointPointer | None:
        """The newest checkpoint whose files are there; a pointer to none is told and deleted."""
        for pointer in reversed(self.pointers()):
            if any(True for _ in self._storage.listing(pointer.key)):
                return pointer
            self._say(f"the files of its checkpoint of step {pointer.step} are gone ({pointer.key}); it is passed over")
            self._storage.delete(self._layout.pointer(pointer.step))
        return None

    def best(self) -> CheckpointPointer:
        """The checkpoint of least loss. A collective; there must be one."""
        return _from_first(_best(self.pointers()) if dist.get_rank() == 0 else None)

    def save(self, engine: Any, pointer: CheckpointPointer) -> None:
        """Write all ranks' files, then the pointer; of older checkpoints the last and the best stay. A collective.

        Raises LeaseLost if another driver took the run over, or later workers did: files and pointers are theirs now.
        """
        self.check()
        with tempfile.TemporaryDirectory(prefix="stillhouse-") as folder:
            if engine.zero_optimization_stage():
                engine.save_checkpoint(folder, tag=TAG, client_state={}, exclude_frozen_parameters=True)
            else:
                save_whole(engine, Path(folder, TAG))
            self._storage.upload_folder(Path(folder), pointer.key)
        pause_point("checkpoint-files")
        dist.barrier()
        if dist.get_rank() == 0:
            self._commit(pointer)
            pause_point("checkpoint-pointer")
            self._tidy()
        dist.barrier()

    def load(self, engine: Any, pointer: CheckpointPointer) -> None:
        """Put a checkpoint's weights and optimiser state into a new engine. A collective.

        One of another number of workers or another stage is converted first. What is frozen stays as it is. Raises
        ValueError where ZeRO-3 is on one side only.
        """
        zero = engine.zero_optimization_stage()
        if (pointer.zero == 3) != (zero == 3):
            raise ValueError(
                f"train.zero: the checkpoint of step {pointer.step} was written by ZeRO-{pointer.zero} and ZeRO-{zero} "
                f"cannot read it; set zero to {pointer.zero or 'auto'}"
            )
        if (pointer.world, pointer.zero) != (dist.get_world_size(), zero):
            self._load_resharded(engine, pointer)
            return
        with local_folder(self._storage, pointer.key) as folder:
            if zero:
                frozen = any(not p.requires_grad for p in engine.module.parameters())
                engine.load_checkpoint(str(folder), tag=TAG, load_module_strict=not frozen)
            else:
                load_whole(engine, folder / TAG)
            dist.barrier()

    def new_key(self, step: int) -> str:
        """Where a save goes, the same on all ranks and never used before. A collective."""
        return self._layout.checkpoint(step, _from_first(secrets.token_hex(4)))

    def _load_resharded(self, engine: Any, pointer: CheckpointPointer) -> None:
        """Through the universal format. Rank 0 converts; the others may be on other machines, so the result goes
        through storage, and is deleted."""
        key = f"{self.new_key(pointer.step)}-universal"
        if dist.get_rank() == 0:
            with (
                local_folder(self._storage, pointer.key) as written,
                tempfile.TemporaryDirectory(prefix="stillhouse-") as folder,
            ):
                (convert if pointer.zero else to_universal)(written / TAG, Path(folder, TAG))
                self.check()
                self._storage.upload_folder(Path(folder), key)
        pause_point("checkpoint-converted")
        dist.barrier()
        with local_folder(self._storage, key) as folder:
            if engine.zero_optimization_stage():
                load_converted(engine, folder, TAG)
            else:
                load_universal(engine, folder / TAG)
            dist.barrier()
        if dist.get_rank() == 0:
            self._storage.delete(key)

    def _commit(self, pointer: CheckpointPointer) -> None:
        """Make the pointer. One of the same step is of workers that were thought dead: the same training, but who holds
        the lease answers for its own files only."""
        key, data = self._layout.pointer(pointer.step), json.dumps(asdict(pointer)).encode()
        self.check()
        if not self._storage.create(key, data):
            self.check()
            self._storage.write(key, data)

    def _tidy(self) -> None:
        """Delete pointers that are neither among the last two nor the best, then all folders that no pointer names."""
        pointers = self.pointers()
        kept = [p for p in pointers if p in pointers[-2:] or p == _best(pointers)]
        for pointer in pointers:
            if pointer not in kept:
                self._storage.delete(self._layout.pointer(pointer.step))
        folder = f"{self._layout.checkpoints}/"
        found = {folder + f.key.removeprefix(folder).split("/")[0] for f in self._storage.listing(folder.rstrip("/"))}
        for key in sorted(found - {p.key for p in kept}):
            self._storage.delete(key)


def _best(pointers: list[CheckpointPointer]) -> CheckpointPointer | None:
    """The one of least loss among those that were due, if any is; of equal ones the last."""
    due = [p for p in pointers if not p.since[0]] or pointers
    return min(due, key=lambda p: (p.loss, -p.step), default=None)


def _from_first(value: Any) -> Any:
    """What rank 0 has, on all ranks."""
    held = [value]
    dist.broadcast_object_list(held, src=0)
    return held[0]
