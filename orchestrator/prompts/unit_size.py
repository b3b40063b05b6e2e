"""How large units are, by teacher and split."""

from __future__ import annotations

from orchestrator.config.schema import RunConfig
from workers.splits import HELDOUT
from workers.units import UnitSize


def unit_size(config: RunConfig, teacher: str, split: str) -> UnitSize:
    """What a unit of a split holds at most that a teacher is to capture."""
    if split == HELDOUT:
        return UnitSize(config.evaluate.heldout.prompts_per_unit)
    return UnitSize(config.targets.prompts_per_unit)
