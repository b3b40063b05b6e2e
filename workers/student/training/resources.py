"""The place that a student's workers want. Pure."""

from __future__ import annotations

from cluster.resources import ResourceRequest, group_request
from workers.student.config import TrainConfig


def resource_request(train: TrainConfig) -> ResourceRequest:
    """Resources and labels of the least workers."""
    return group_request(train.workers[0], train.cpus_per_worker, train.gpus_per_worker, "PACK", train.label_selector)
