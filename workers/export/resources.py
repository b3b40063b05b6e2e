"""The place that an export wants. Pure."""

from __future__ import annotations

from cluster.resources import ResourceRequest, group_request
from workers.evaluation.config import EvaluateConfig


def resource_request(config: EvaluateConfig) -> ResourceRequest:
    """Resources of the process that writes and measures a file: the evaluator's CPUs. Files run on CPUs, whichever
    device students were scored on."""
    return group_request(1, config.cpus, 0, "PACK", {})
