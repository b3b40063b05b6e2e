"""The place that the evaluator wants. Pure."""

from __future__ import annotations

from cluster.resources import ResourceRequest, group_request
from workers.evaluation.config import EvaluateConfig


def resource_request(config: EvaluateConfig) -> ResourceRequest:
    """Resources and labels of one of its processes, which is the least that it works with."""
    return group_request(1, config.cpus, config.gpus, "PACK", config.label_selector)
