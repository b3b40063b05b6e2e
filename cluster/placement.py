"""Placing a group of processes together, and waiting for the place out loud."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

from cluster.inventory import cluster_nodes
from cluster.resources import MEMORY, ResourceRequest, infeasible_reason, matches, others_than, table

Patience = Literal["deadline", "others", "forever"]
"""How long a group of processes may wait: to its deadline, while `others` of the same run hold places that they will
free (then to its deadline), or for as long as it is wanted at all."""

_HEAD, _NODE_ID = "node:__internal_head__", "ray.io/node-id"
"""What Ray calls a resource that its head alone has, and a label that each node has."""

_SAY_S = 30.0
_LOOK_S = 1.0


def place_group(
    request: ResourceRequest,
    *,
    what: str,
    deadline_s: float,
    patience: Callable[[], Patience],
    say: Callable[[str], None],
) -> Any | None:
    """A placement group that holds all of a group of processes, ready; None if the group was removed meanwhile, as
    nobody needs it any more. The pending group is the demand that an autoscaler sees.

    Called in an actor that was restarted, it takes over the group of that actor's earlier life: Ray keeps a group for
    as long as its actor can come back, and the processes that were in it are dead.

    Says every 30 s what it waits for (one that waits for ever says it once). Raises TimeoutError, naming what it wants
    and what there is, at the deadline.
    """
    group = _group_of_this_actor(request)
    began = start = said = time.monotonic()
    pause, quiet = 0.05, False
    while (state := state_of(group)) not in ("CREATED", "REMOVED"):
        time.sleep(pause)
        pause = min(pause * 2, _LOOK_S)
        now, allowed = time.monotonic(), patience()
        if allowed == "forever" or (allowed == "others" and not infeasible_reason(request, cluster_nodes())):
            start = now
        elif now - start >= deadline_s:
            free_group(group)
            raise TimeoutError(no_place(request, what, now - start))
        if now - said >= _SAY_S and not quiet:
            said, quiet = now, allowed == "forever"
            say(f"{what} waits for {request} since {now - began:.0f} s; {table(cluster_nodes())}")
    return group if state == "CREATED" else None


class PlaceDeadline:
    """Ends the wait for a place that is more than the cluster has at all, in use or free, since `deadline_s`. What is
    only in use is waited for: it becomes free."""

    def __init__(self, request: ResourceRequest, what: str, deadline_s: float) -> None:
        self._request, self._what, self._deadline_s = request, what, deadline_s
        self._looked, self._since = float("-inf"), float("inf")

    def check(self) -> None:
        """Raises TimeoutError, naming what is wanted and what there is, at the deadline."""
        now = time.monotonic()
        if now - self._looked < _LOOK_S:
            return
        self._looked = now
        if infeasible_reason(self._request, cluster_nodes()) is None:
            self._since = float("inf")
            return
        self._since = min(self._since, now)
        if now - self._since >= self._deadline_s:
            raise TimeoutError(no_place(self._request, self._what, now - self._since))


def no_place(request: ResourceRequest, what: str, waited_s: float) -> str:
    """What a group of processes wanted, what it lacked and what the cluster has."""
    nodes = cluster_nodes()
    reason = infeasible_reason(request, nodes) or "it is in use"
    return f"{what} wants {request} and found no place in {waited_s:.0f} s: {reason}. The cluster: {table(nodes)}"


def beside_driver() -> Any:
    """A scheduling strategy for an actor that a run cannot lose: on the node of the process that makes it, which is
    where the driver is, and not on one that may be taken away."""
    return on_node(this_node())


def this_node() -> str:
    """Ray's id of the node of this process."""
    import ray

    return str(ray.get_runtime_context().get_node_id())


def on_node(node: str) -> Any:
    """A scheduling strategy for what must be on a node, by its id."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return NodeAffinitySchedulingStrategy(node, soft=False)


def away_from(selectors: Iterable[Mapping[str, str]]) -> dict[str, Any]:
    """Options of an actor that reserves nothing, which keep it off the nodes that others ask for by label: Ray would
    put it on any, and an autoscaler takes none away that a process is on, whatever it costs. None where there are no
    others."""
    wanted = others_than(selectors)
    there = wanted and any(matches(node.labels, wanted) for node in cluster_nodes())
    return {"label_selector": wanted} if there else {}


def away_from_head(request: ResourceRequest) -> dict[str, Any]:
    """Options of an actor or task of these resources, which are one process's, that keep it off the cluster's head
    where another node can have it: what takes much would take it from the processes that all others depend on."""
    nodes = cluster_nodes()
    heads = [node.labels[_NODE_ID] for node in nodes if _HEAD in node.total and _NODE_ID in node.labels]
    others = [node for node in nodes if _HEAD not in node.total]
    bundle = dict(request.bundles[0])
    options: dict[str, Any] = {
        "num_cpus": bundle.pop("CPU", 0),
        "memory": int(bundle.pop(MEMORY, 0)) or None,
        "resources": bundle,
    }
    if heads and infeasible_reason(request, others) is None:
        options["label_selector"] = {_NODE_ID: f"!{heads[0]}"}
    return options


def state_of(group: Any) -> str:
    """PENDING, CREATED, RESCHEDULING (a node was lost) or REMOVED."""
    from ray.util.placement_group import placement_group_table

    return str(placement_group_table(group).get("state", "REMOVED"))


def group_name(actor: str) -> str:
    """What the group of an actor is called; it has one at a time."""
    return f"group-{actor}"


def free_group_of(actor: str) -> None:
    """Free an actor's group from elsewhere, with the processes in it, if there is one."""
    if (group := _find(group_name(actor))) is not None:
        free_group(group)


def free_group_with(id_hex: str) -> None:
    """Free a group known by its id, which may be gone already."""
    import ray
    from ray.util.placement_group import PlacementGroup

    free_group(PlacementGroup(ray.PlacementGroupID(bytes.fromhex(id_hex))))


def free_groups_made_by(actor: str) -> None:
    """Free all groups that a dead actor made, known to anybody or not: Ray keeps them until the job ends."""
    from cluster.ray_internals import groups_made_by

    for id_hex in groups_made_by(actor):
        free_group_with(id_hex)


def free_groups_of_the_dead() -> None:
    """Free the groups of this job whose actors are dead for good. One that Ray may bring back keeps its own."""
    from cluster.ray_internals import groups_of_the_dead

    for id_hex in groups_of_the_dead():
        free_group_with(id_hex)


def free_group(group: Any) -> None:
    """Remove a group, with the processes in it, and wait until it is gone."""
    from ray.util.placement_group import remove_placement_group

    remove_placement_group(group)
    while state_of(group) != "REMOVED":
        time.sleep(0.05)


def _group_of_this_actor(request: ResourceRequest) -> Any:
    import ray
    from ray.util.placement_group import placement_group

    actor = ray.get_runtime_context().get_actor_id() or ""
    if actor and (group := _find(group_name(actor))) is not None:
        return group
    return placement_group(
        [dict(b) for b in request.bundles],
        strategy=request.strategy,
        name=group_name(actor) if actor else "",
        bundle_label_selector=[dict(request.labels)] * len(request.bundles) if request.labels else None,
    )


def _find(name: str) -> Any | None:
    from ray.util.placement_group import get_placement_group

    try:
        return get_placement_group(name)
    except ValueError:
        return None
