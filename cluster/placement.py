"""Placing a gang of processes together, and waiting for the place out loud."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any


def gang_bundles(ranks: int, cpus: float, gpus: float) -> list[dict[str, float]]:
    """One resource bundle per rank. Pure."""
    bundle = {"CPU": cpus} | ({"GPU": gpus} if gpus else {})
    return [dict(bundle) for _ in range(ranks)]


def place_gang(
    bundles: list[dict[str, float]],
    *,
    strategy: str,
    labels: dict[str, str],
    deadline_s: float,
    say: Callable[[str], None],
    what: str,
) -> Any:
    """A placement group that holds all bundles, ready. The pending group is the demand that an autoscaler sees.

    Says every 30 s what it waits for; raises TimeoutError, naming what it wants and what there is, at the deadline.
    """
    import ray
    from ray.util.placement_group import placement_group, remove_placement_group

    group = placement_group(
        bundles, strategy=strategy, bundle_label_selector=[labels] * len(bundles) if labels else None
    )
    start = time.monotonic()
    while True:
        ready, _ = ray.wait([group.ready()], timeout=min(30.0, deadline_s))
        if ready:
            return group
        waited = time.monotonic() - start
        have = {k: v for k, v in ray.available_resources().items() if k in ("CPU", "GPU")}
        if waited >= deadline_s:
            remove_placement_group(group)
            raise TimeoutError(
                f"{what} wants {bundles} {labels or ''} ({strategy}) and found no place in {waited:.0f} s; "
                f"free now: {have}"
            )
        say(f"{what} waits for {bundles} ({strategy}) since {waited:.0f} s; free now: {have}")
