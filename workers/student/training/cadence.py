"""When a checkpoint is written: every so many steps, every so many seconds, and when it is asked for from outside, as a
node will be taken away, or as the run is to leave.

Each rank may hear that at another moment; they agree by a sum that a step takes anyway (step.py).
"""

from __future__ import annotations

import time
from enum import IntFlag

from cluster.ray_internals import is_draining
from workers.channels.board import Orders
from workers.student.config import TrainConfig


class Cadence:
    """The steps since the last checkpoint of one worker's training: how many, for how long, at which loss."""

    def __init__(self, train: TrainConfig, rank: int, world: int, device: str) -> None:
        self._every, self._seconds = train.checkpoint_steps, train.checkpoint_s
        self._rank, self._world, self._device = rank, world, device
        self.restart()

    def restart(self, since: tuple[int, float] = (0, 0.0)) -> None:
        """A checkpoint that was due was written, or so many steps ago (`progress`)."""
        (self._steps, self._loss), self._since = since, time.monotonic()

    @property
    def progress(self) -> tuple[int, float]:
        """Steps since the last checkpoint that was due, and the sum of their losses."""
        return self._steps, self._loss

    def note(self, loss: float) -> None:
        """A step was done, with this mean loss."""
        self._steps += 1
        self._loss += loss

    @property
    def loss(self) -> float:
        """Mean loss of the steps since the last checkpoint; there must be one."""
        return self._loss / self._steps

    def due(self, step: int) -> bool:
        """Whether a checkpoint is to be written after this step. A collective where it depends on a clock: rank 0's."""
        by_step = self._every is not None and step % self._every == 0
        return self._late() or by_step

    def _late(self) -> bool:
        if self._seconds is None:
            return False
        late = time.monotonic() - self._since >= self._seconds
        if self._world == 1:
            return late
        import torch
        import torch.distributed as dist

        said = torch.tensor(int(late), device=self._device)
        dist.broadcast(said, src=0)
        return bool(said)


_LOOK_S = 5.0
"""Seconds between two looks for a notice. Clouds give half a minute of it, or two."""


class Asked(IntFlag):
    """What a rank has heard. Sums of what ranks heard say whether any did: each has its own digits."""

    NOTHING = 0
    CHECKPOINT = 1
    LEAVE = 1 << 16


class Left(Exception):
    """A training was asked to leave, and has, with a checkpoint."""


class Ears:
    """Listens for one rank: to notice that its node will be taken away, and, the first one, to its run's driver."""

    def __init__(self, board: str, rank: int) -> None:
        self._orders, self._notices = Orders(board if rank == 0 else ""), bool(board)
        self._looked = float("-inf")

    def heard(self) -> Asked:
        """What was asked for by now; waits for nobody."""
        found, now = Asked.LEAVE if self._orders.leave() else Asked.NOTHING, time.monotonic()
        if self._notices and now - self._looked >= _LOOK_S:
            self._looked = now
            if is_draining():
                self._notices = False  # one checkpoint a notice; the training goes on until the node is gone
                found |= Asked.CHECKPOINT
        return found


def of_all(heard: int) -> Asked:
    """What the ranks of a step were asked for, from the sum of what each heard."""
    found = Asked.NOTHING
    if heard % Asked.LEAVE:
        found |= Asked.CHECKPOINT
    if heard >= Asked.LEAVE:
        found |= Asked.LEAVE
    return found
