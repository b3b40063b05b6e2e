"""Which nodes a cluster has: what each is for, when it came and when it left."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from cluster.nodes.kinds import ROLE
from cluster.ray_internals import node_table
from cluster.resources import ACCELERATOR

_LOOK_S = 5.0
"""Seconds between two looks."""

_REASONS = {"AUTOSCALER_DRAIN_IDLE": "idle", "AUTOSCALER_DRAIN_PREEMPTED": "preempted"}
"""Why an autoscaler takes nodes away, in a word; of others Ray says it in a sentence."""

_SHARE = 0.02
"""Of the time that looks may take: those of a head that answers slowly come more seldom."""

_ANSWER_S = 5.0
"""Seconds in which the head must answer; else this look is left out."""


@dataclass(frozen=True)
class Member:
    """A node that is, or was, in the cluster. Times are seconds since 1970, by the clock of the head."""

    id: str
    role: str
    address: str
    labels: Mapping[str, str]
    resources: Mapping[str, float]
    """Totals, by Ray's names."""
    joined: float
    left: float | None = None
    reason: str = ""
    """Why it left, in Ray's words."""


def role_of(labels: Mapping[str, str], resources: Mapping[str, float], *, head: bool) -> str:
    """What a node is for: its label, or else what it is: `head`, `cpu`, or its accelerators as `h100:8`."""
    if ROLE in labels:
        return labels[ROLE]
    if head:
        return "head"
    if not (gpus := resources.get("GPU", 0)):
        return "cpu"
    types = [name.removeprefix(ACCELERATOR).lower() for name in resources if name.startswith(ACCELERATOR)]
    return f"{types[0] if types else 'gpu'}:{gpus:g}"


@dataclass(frozen=True)
class Changes:
    """What is other than at the look before."""

    joined: tuple[Member, ...] = ()
    left: tuple[Member, ...] = ()


class MemberWatch:
    """Looks every few seconds at which nodes there are: one request to Ray's head, whatever their number, and another
    one where some have left. A node that comes and leaves between two looks is not seen."""

    def __init__(self) -> None:
        self._here: dict[str, Member] = {}
        self._next = float("-inf")

    @property
    def here(self) -> list[Member]:
        """The nodes that were there at the last look."""
        return list(self._here.values())

    def look(self, *, now: bool = False) -> Changes:
        """What changed since the last call; nothing where it is not time to look, unless it is to be `now`."""
        began = time.monotonic()
        if began < self._next and not now:
            return Changes()
        changes = self._changes()
        ended = time.monotonic()
        self._next = ended + max(_LOOK_S, (ended - began) / _SHARE)
        return changes

    def _changes(self) -> Changes:
        table = node_table(living=True, timeout_s=_ANSWER_S)
        if table is None:
            return Changes()
        living = {one.node_id.hex(): one for one in table}
        gone = sorted(self._here.keys() - living.keys())
        dead = {one.node_id.hex(): one for one in node_table(living=False, timeout_s=_ANSWER_S) or ()} if gone else {}
        joined = {node: _member(one) for node, one in living.items() if node not in self._here}
        left = [_left(self._here.pop(node), dead.get(node)) for node in gone]
        self._here |= joined
        return Changes(tuple(joined.values()), tuple(left))


def _member(one: Any) -> Member:
    labels, resources = dict(one.labels), dict(one.resources_total)
    role = role_of(labels, resources, head=one.is_head_node)
    return Member(one.node_id.hex(), role, one.node_manager_address, labels, resources, one.start_time_ms / 1000)


def _left(member: Member, one: Any) -> Member:
    """A node that is there no more; `one` is what Ray knows of it still, if anything."""
    if one is None:
        return replace(member, left=time.time())
    kind = type(one.death_info).Reason.Name(one.death_info.reason)
    reason = _REASONS.get(kind) or one.death_info.reason_message.rstrip(".") or kind.lower().replace("_", " ")
    return replace(member, left=one.end_time_ms / 1000 or time.time(), reason=reason)
