"""The learning rate as a pure function of the part of the token budget that is spent, so that a resume is exact."""

from __future__ import annotations

import math
from typing import Literal


def learning_rate(
    spent: float, peak: float, schedule: Literal["constant", "linear", "cosine", "wsd"], warmup: float, decay: float
) -> float:
    """Learning rate when the share `spent` (0 ... 1) of the budget is behind.

    Warm-up is linear over the first `warmup`; `linear` and `cosine` then fall to 0 at 1; `wsd` falls linearly over the
    last `decay` (Hägele et al. 2024, arXiv 2405.18392).
    """
    if spent < warmup:
        # Half a step in, so that the first step is not lost on a rate of 0.
        return peak * max(spent / warmup, 0.02)
    left = max(1 - spent, 0.0)
    if schedule == "constant":
        return peak
    if schedule == "wsd":
        return peak * min(1.0, left / decay)
    progress = min((spent - warmup) / (1 - warmup), 1.0)
    return peak * (1 - progress if schedule == "linear" else 0.5 * (1 + math.cos(math.pi * progress)))
