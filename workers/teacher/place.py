"""The place that one replica of a teacher wants. Pure."""

from __future__ import annotations

from cluster.room import Wanted, gang_wants
from workers.teacher.config import TeacherConfig


def wanted_place(config: TeacherConfig) -> Wanted:
    """Resources, layout and labels of a replica's ranks."""
    return gang_wants(
        config.ep_size,
        config.cpus_per_rank,
        config.gpus_per_rank,
        config.placement,
        config.label_selector,
        config.accelerator_type,
    )
