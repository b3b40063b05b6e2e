"""Which specialists may take a place now. Pure.

By priority, so many at once, and only with as many without a place as an autoscaler should see; on GPUs also not before
targets come fast enough that a place would hardly be held to wait (expectation.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from orchestrator.config.fan_out import FanOutConfig

Group = TypeVar("Group")


def by_priority(groups: Sequence[Group], priority: Callable[[Group], int]) -> list[Group]:
    """Higher before lower; equals in the order that they have."""
    return sorted(groups, key=lambda group: -priority(group))


def admitted(
    queue: Sequence[Group], settings: FanOutConfig, *, at_work: int, looking: int, ready: Callable[[Group], bool]
) -> list[Group]:
    """Of groups in the order of their priority, those that may look for a place now.

    `at_work`: groups that look for a place or have one; `looking`: those of them that have none. A group that is not
    `ready` is passed over, so that it holds up none behind it.
    """
    found: list[Group] = []
    for group in queue:
        if settings.at_once is not None and at_work + len(found) >= settings.at_once:
            break
        if looking + len(found) >= settings.pending:
            break
        if ready(group):
            found.append(group)
    return found
