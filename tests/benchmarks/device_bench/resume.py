"""What resuming a student from its checkpoint reads of the storage."""

from __future__ import annotations

import tempfile
from pathlib import Path

from support.programs.saving_ranks import Group, run

_WIDTH = 512
"""Of the small model: 10 MB of masters and moments, beside which headers are next to nothing."""


def resume_bytes_over_state(ranks: int, zero: int = 1) -> float:
    """Bytes that all ranks together read to resume, over those of float32 masters and both moments of what is trained:
    1 where each is read once. As many ranks resume as saved."""
    with tempfile.TemporaryDirectory() as folder:
        found = run(Path(folder), [Group(ranks, zero, steps=1), Group(ranks, zero)], _WIDTH)[-1]
    return found.read / sum(4 * numbers.numel() for numbers in found.state.values())
