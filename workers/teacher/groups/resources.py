"""The place that one replica of a teacher wants. Pure."""

from __future__ import annotations

from cluster.resources import ResourceRequest, group_request
from workers.teacher.config import TeacherConfig


def resource_request(config: TeacherConfig) -> ResourceRequest:
    """Resources, layout and labels of a replica's ranks."""
    return group_request(
        config.ep_size,
        config.cpus_per_rank,
        config.gpus_per_rank,
        config.placement,
        config.label_selector,
        config.accelerator_type,
    )
