"""What a part asks of a cluster, and places for it: of several kinds of nodes first the one that suffices."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from cluster.config import ClusterConfig
from cluster.nodes.kinds import NodeKind, PlannedNode
from cluster.nodes.packing import Room
from cluster.nodes.prices import node_rate
from cluster.resources import Node, ResourceRequest, bundles_on, matches
from orchestrator.preflight.parts import Part

Change = tuple[str, Part]
"""A change of settings in words, which begin with its key, and what a part becomes by it."""


@dataclass(frozen=True)
class Placeable:
    """A part with what it asks of a cluster."""

    part: Part
    key: str
    """Of its settings."""
    what: str
    """What finds a place or none: one replica, all workers."""
    amounts: str
    """Settings that say how much it reserves."""
    request: ResourceRequest
    """Of one group of its processes."""
    groups: int = 1
    """How many of those must be there at once, and at most."""
    most_groups: int = 1
    changes: Callable[[], Iterator[Change]] = field(default=lambda: iter(()))
    """What would make a process of it smaller."""
    starts: bool = True


class Seats:
    """Nodes while groups of processes are put on them, about as Ray does, and taken off again.

    A group that fits GPUs of several kinds goes where it costs least, where all of them have prices, else to the
    smallest GPUs: larger ones are left to who needs them. Kinds that hold all of it on one node come first. Ray itself
    chooses by what is free alone.
    """

    def __init__(self, nodes: Sequence[Node], cluster: ClusterConfig) -> None:
        self._nodes, self._cluster = nodes, cluster
        self._room = Room(nodes)

    def able(self, request: ResourceRequest) -> list[int]:
        """Nodes, by index, where Ray may put a process."""
        return [
            i
            for i, node in enumerate(self._nodes)
            if matches(node.labels, request.labels) and bundles_on(node.total, request.bundles[0]) > 0
        ]

    def kind(self, node: int) -> NodeKind | None:
        """That of a node; None where it is not known."""
        found = self._nodes[node]
        return found.kind if isinstance(found, PlannedNode) else None

    def fitting(self, item: Placeable) -> list[NodeKind]:
        """Kinds whose GPUs hold a process of a part, of those where Ray may put it; the one to take first, first."""
        kinds = {kind.name: kind for i in self.able(item.request) if (kind := self.kind(i)) is not None}
        fit = [kind for kind in kinds.values() if item.part.fits_gpus(kind.gpu_memory)]
        return sorted(fit, key=self._preference(item, fit)) if item.part.gpus else []

    def put(self, item: Placeable) -> list[int] | None:
        """Give a group its place; the node of each process, or None where there is no room for all of them."""
        able = self.able(item.request)
        by_kind = [[i for i in able if self._nodes_kind(i) == kind.name] for kind in self.fitting(item)]
        fit = [i for nodes in by_kind for i in nodes]
        for among in [*by_kind, fit or able]:
            if (places := self._room.put(item.request, among)) is not None:
                return places
        return None

    def give_back(self, item: Placeable, places: Sequence[int]) -> None:
        """Take a group off its nodes."""
        self._room.give_back(item.request, places)

    def _nodes_kind(self, node: int) -> str | None:
        kind = self.kind(node)
        return None if kind is None else kind.name

    def _preference(self, item: Placeable, kinds: Sequence[NodeKind]) -> Callable[[NodeKind], tuple[bool, float, int]]:
        bundle, ranks = item.request.bundles[0], len(item.request.bundles)
        rates = {kind.name: node_rate(self._cluster, kind, 1, _cpus_of_gpu(kind)) for kind in kinds}
        priced = all(rate is not None for rate in rates.values())
        together = not item.request.strategy.endswith("SPREAD")

        def key(kind: NodeKind) -> tuple[bool, float, int]:
            own = [n for i, n in enumerate(self._nodes) if self._nodes_kind(i) == kind.name]
            most = max(bundles_on(node.total, bundle) for node in own)
            return together and most < ranks, (rates[kind.name] or 0.0) if priced else 0.0, kind.gpu_memory

        return key


def _cpus_of_gpu(kind: NodeKind) -> float:
    return kind.cpus / kind.gpus if kind.gpus else kind.cpus
