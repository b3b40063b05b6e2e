"""When a checkpoint is due: every so many steps, every so many seconds, or both."""

from __future__ import annotations

import time

from workers.student.config import TrainConfig


class Cadence:
    """The steps since the last checkpoint of one worker's training: how many, for how long, at which loss."""

    def __init__(self, train: TrainConfig, rank: int, world: int, device: str) -> None:
        self._every, self._seconds = train.checkpoint_steps, train.checkpoint_s
        self._rank, self._world, self._device = rank, world, device
        self.restart()

    def restart(self) -> None:
        """A checkpoint was written."""
        self._steps, self._loss, self._since = 0, 0.0, time.monotonic()

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
