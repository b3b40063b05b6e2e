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

    Called in an actor, it first frees the group of that actor's life before a restart: Ray keeps a group for as long
    as the actor that made it can come back, so the old gang's place would be lost to the new one.

    Says every 30 s what it waits for; raises TimeoutError, naming what it wants and what there is, at the deadline.
    """
    import ray
    from ray.util.placement_group import placement_group, remove_placement_group

    owner = ray.get_runtime_context().get_actor_id() or ""
    if owner:
        free_group(f"gang-{owner}")
    group = placement_group(
        bundles,
        strategy=strategy,
        name=f"gang-{owner}" if owner else "",
        bundle_label_selector=[labels] * len(bundles) if labels else None,
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


def free_group(name: str) -> None:
    """Remove the placement group of that name, with the actors in it, and wait until it is gone; none is fine."""
    from ray.util.placement_group import get_placement_group, placement_group_table, remove_placement_group

    try:
        group = get_placement_group(name)
    except ValueError:
        return
    remove_placement_group(group)
    while placement_group_table(group).get("state") != "REMOVED":
        time.sleep(0.1)
