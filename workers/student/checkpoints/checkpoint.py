"""Checkpoints of a specialist: what every rank's optimiser holds, the cursor, and a pointer that makes them exist.

Layout below `students/NAME/`: `checkpoints/step-00000200-3f9c01d2/...` holds files (parts.py), `log/00000200.json` is
the pointer, made after all ranks have written. Each save has a folder of its own, so that what a killed one left never
mixes with a later one's; a folder that no pointer names is deleted. Ray's own snapshot is overwritten in place, so it
is not used.

A save holds training up for as long as a rank needs to write its part to its own disk. A thread of each rank uploads
that; the first rank's then waits for the others' in the storage, and makes the pointer.

`groups/000003` says that the third group of workers trains this student. An older one that was thought dead (its node
was cut off, but reaches the storage) finds it there, and writes nothing more.
"""

from __future__ import annotations

import json
import secrets
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch.distributed as dist

from cluster.faults import pause_point
from cluster.lease import Fence, LeaseLost
from cluster.storage import Storage
from workers.collectives import from_first
from workers.layout import StudentLayout
from workers.student.checkpoints.parts import mark_name, part_name, read_slices, write_part
from workers.student.checkpoints.slices import compute_with_masters, give_state, held

_FORMAT = 2
"""Of the files. Those of 1 were DeepSpeed's own."""

_LOOK_S, _MOST_LOOK_S = 0.05, 2.0
"""Between two looks for the parts of other ranks: at first, and at most; twice as long each time."""

_CLOSING_S = 60.0
"""How long a training that fails waits for the parts of other ranks, which may be gone: a save under way is not lost
with it."""


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
    format: int = _FORMAT
    """Of its files."""

    @staticmethod
    def from_bytes(data: bytes) -> CheckpointPointer:
        """As it is stored."""
        return CheckpointPointer(**{"format": 1, **json.loads(data)})


class Checkpoints:
    """The checkpoints of one specialist: the last two and the best one. `say` tells what a person should know, and
    `saved` of each pointer that was made, on the first rank, in any thread."""

    def __init__(
        self,
        storage: Storage,
        layout: StudentLayout,
        fence: Fence,
        say: Callable[[str], None] = lambda _: None,
        saved: Callable[[CheckpointPointer], None] = lambda _: None,
    ) -> None:
        self._storage, self._layout, self._fence, self._say, self._saved = storage, layout, fence, say, saved
        self._group = ""
        self._background = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._under_way: list[Future[None]] = []
        """Of the last save, what this rank does in the background: its upload, and the first rank the pointer."""
        self._no_longer_than = float("inf")

    def check(self) -> None:
        """Raise LeaseLost if another driver took the run over, or later workers this student."""
        self._fence.check()
        if (newest := self._storage.keys(self._layout.groups)[-1:]) != [self._group]:
            raise LeaseLost(f"{self._layout.root}: the workers {self._group} were taken for dead; {newest} are at work")

    def pointers(self) -> list[CheckpointPointer]:
        """The complete checkpoints, oldest first."""
        keys = self._storage.keys(self._layout.pointers)
        return [CheckpointPointer.from_bytes(self._storage.read(key)) for key in keys]

    def check_format(self) -> None:
        """Raise ValueError if the newest checkpoint is one of an older version, which had files that this one does not
        read."""
        for pointer in self.pointers()[-1:]:
            if pointer.format != _FORMAT:
                raise ValueError(
                    f"{self._layout.root}: its checkpoint of step {pointer.step} has format {pointer.format}, this "
                    f"stillhouse reads {_FORMAT}; finish its training with the version that wrote it, or delete "
                    f"{self._layout.pointers} and {self._layout.checkpoints} below {self._storage.uri}, so that it is "
                    "trained from its beginning"
                )

    def resume(self, engine: Any) -> CheckpointPointer | None:
        """Load the newest complete checkpoint, and delete what killed saves have left. A collective.

        From here on these workers are the ones that train this student. None if there is none. Raises LeaseLost if
        another driver took the run over.
        """
        self._fence.check()
        self._group = from_first(self._take_over() if dist.get_rank() == 0 else "")
        pointer: CheckpointPointer | None = from_first(self._newest_whole() if dist.get_rank() == 0 else None)
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
        """The checkpoint of least loss, when a save under way is finished. A collective; there must be one."""
        self.finish()
        return from_first(_best(self.pointers()) if dist.get_rank() == 0 else None)

    def save(self, engine: Any, pointer: CheckpointPointer) -> None:
        """Begin to write a checkpoint, when the one before is finished: what is trained from here on is not in it. Of
        older ones the last and the best stay, when it has its pointer. A collective.

        Raises LeaseLost if another driver took the run over, or later workers did: files and pointers are theirs now;
        and what the save before met.
        """
        self.finish()
        self.check()
        folder = tempfile.TemporaryDirectory(prefix="stillhouse-")
        header = write_part(held(engine), Path(folder.name, part_name(dist.get_rank())))
        submit = self._background.submit
        self._under_way = [submit(self._upload, folder, header, pointer.key, dist.get_rank())]
        if dist.get_rank() == 0:
            data = json.dumps(asdict(pointer)).encode()  # now: its loss curve goes on
            self._under_way.append(submit(self._commit, pointer, data, self._under_way[0]))

    def finish(self) -> None:
        """Wait until a save that is under way has its pointer. A collective. Raises on all ranks what one has met."""
        for work in (self._under_way[:1], self._under_way[1:]):  # without all parts there will be no pointer
            _raise_on_all(work[0].exception() if work else None)
        self._under_way = []

    def raise_fault(self) -> None:
        """Raise what a save under way has met on this rank; waits for nothing."""
        for work in self._under_way:
            if work.done():
                work.result()

    def close(self) -> None:
        """End the background's thread, when a save under way has its pointer, or lacks what will not come."""
        self._no_longer_than = time.monotonic() + _CLOSING_S
        self._background.shutdown()

    def load(self, engine: Any, pointer: CheckpointPointer) -> None:
        """Put a checkpoint's weights and optimiser state into a new engine: each rank reads what its own optimiser
        holds, whatever number of ranks and ZeRO stage wrote it. What is frozen stays as it is. A collective."""
        give_state(engine, pointer.step)
        headers = from_first(self._headers(pointer) if dist.get_rank() == 0 else None)
        read_slices(self._storage, pointer.key, headers, held(engine))
        compute_with_masters(engine)
        dist.barrier()

    def new_key(self, step: int) -> str:
        """Where a save goes, the same on all ranks and never used before. A collective."""
        return self._layout.checkpoint(step, from_first(secrets.token_hex(4)))

    def _headers(self, pointer: CheckpointPointer) -> list[bytes]:
        """Those of all parts, in order."""
        keys = [f"{pointer.key}/{mark_name(rank)}" for rank in range(pointer.world)]
        found = dict(zip(keys, self._storage.read_many(keys), strict=True))
        if missing := [key for key, header in found.items() if header is None]:
            raise OSError(f"{self._storage.uri}: the checkpoint of step {pointer.step} lacks {', '.join(missing)}")
        return [header for header in found.values() if header is not None]

    def _upload(self, folder: tempfile.TemporaryDirectory[str], header: bytes, key: str, rank: int) -> None:
        with folder:
            self._storage.upload_folder(Path(folder.name), key)
        pause_point("checkpoint-files")
        self._storage.write(f"{key}/{mark_name(rank)}", header)

    def _commit(self, pointer: CheckpointPointer, data: bytes, upload: Future[None]) -> None:
        """Make the pointer when all parts are there. One of the same step is of workers that were thought dead: the
        same training, but who holds the lease answers for its own files only."""
        if upload.exception() is not None:
            return
        self._wait_for_parts(pointer)
        key = self._layout.pointer(pointer.step)
        self.check()
        if not self._storage.create(key, data):
            self.check()
            self._storage.write(key, data)
        self._saved(pointer)
        pause_point("checkpoint-pointer")
        self._tidy()

    def _wait_for_parts(self, pointer: CheckpointPointer) -> None:
        wanted, look_s = {f"{pointer.key}/{mark_name(rank)}" for rank in range(pointer.world)}, _LOOK_S
        while missing := wanted.difference(self._storage.keys(pointer.key)):
            if time.monotonic() > self._no_longer_than:
                raise TimeoutError(f"the checkpoint of step {pointer.step} lacks parts of {len(missing)} workers")
            time.sleep(look_s)
            look_s = min(2 * look_s, _MOST_LOOK_S)

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


def _raise_on_all(fault: BaseException | None) -> None:
    """Raise what any rank has met: its own, or else the first one's. A collective."""
    faults: list[BaseException | None] = [None] * dist.get_world_size()
    dist.all_gather_object(faults, fault)
    for met in (fault, *faults):
        if met is not None:
            raise met
