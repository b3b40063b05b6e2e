"""The place that the evaluator wants. Pure."""

from __future__ import annotations

from cluster.resources import ResourceRequest, group_request
from workers.evaluation.config import EvaluateConfig


def resource_request(config: EvaluateConfig) -> ResourceRequest:
    """Resources of its one process."""
    return group_request(1, config.cpus, config.gpus, "PACK", {})
