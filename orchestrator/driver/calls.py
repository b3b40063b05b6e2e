"""Calls to actors that the driver looks after without waiting for any."""

from __future__ import annotations

from typing import Any, TypeVar

import ray

Work = TypeVar("Work")


def take_ended(calls: dict[Any, Work]) -> list[tuple[Work, Any, ray.exceptions.RayError | None]]:
    """Remove from `calls` those that have ended: for each, what it was for, what it returned, and its error, if any."""
    ready, _ = ray.wait(list(calls), num_returns=len(calls), timeout=0) if calls else ([], [])
    ended: list[tuple[Work, Any, ray.exceptions.RayError | None]] = []
    for call in ready:
        work = calls.pop(call)
        try:
            ended.append((work, ray.get(call), None))
        except ray.exceptions.RayError as error:
            ended.append((work, None, error))
    return ended
