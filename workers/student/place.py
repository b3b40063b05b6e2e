"""The place that a student's workers want. Pure."""

from __future__ import annotations

from cluster.room import Wanted, gang_wants
from workers.student.config import TrainConfig


def wanted_place(train: TrainConfig) -> Wanted:
    """Resources and labels of the least workers."""
    return gang_wants(train.workers[0], train.cpus_per_worker, train.gpus_per_worker, "PACK", train.label_selector)
