"""Groups of processes put on nodes one after another, about as Ray places them. Pure."""

from __future__ import annotations

from collections.abc import Container, Sequence

from cluster.resources import Node, ResourceRequest, bundles_on, matches


class Room:
    """What is free on some nodes, all of them empty at first."""

    def __init__(self, nodes: Sequence[Node]) -> None:
        self._nodes = nodes
        self._free = [dict(node.total) for node in nodes]

    def put(self, request: ResourceRequest, among: Container[int]) -> list[int] | None:
        """Give a group its place on some of the nodes (by index); returns the node of each process, or None where not
        all of them find room beside what is there, and then nothing is given.

        PACK takes the fewest nodes, and of those that hold all of it the fullest; SPREAD one node after another.
        Processes without GPUs keep off nodes that have some as long as others have room.
        """
        bundle, ranks = request.bundles[0], len(request.bundles)
        room = {
            i: slots
            for i, node in enumerate(self._nodes)
            if i in among and matches(node.labels, request.labels) and (slots := bundles_on(self._free[i], bundle)) > 0
        }
        spare = {i: bool(self._nodes[i].total.get("GPU")) and not bundle.get("GPU") for i in room}
        if request.strategy.endswith("SPREAD"):
            order = sorted(room, key=lambda i: (spare[i], -room[i], i))
            places = _spread(order, room, ranks, strict=request.strategy == "STRICT_SPREAD")
        else:
            whole = [i for i in room if room[i] >= ranks]
            best = min(whole, key=lambda i: (spare[i], room[i], i), default=None)
            if best is not None:
                places = [best] * ranks
            elif request.strategy == "STRICT_PACK":
                return None
            else:
                order = sorted(room, key=lambda i: (spare[i], -room[i], i))
                places = [i for i in order for _ in range(room[i])][:ranks]
        if len(places) < ranks:
            return None
        for i in places:
            for name, amount in bundle.items():
                self._free[i][name] = self._free[i].get(name, 0) - amount
        return places

    def give_back(self, request: ResourceRequest, places: Sequence[int]) -> None:
        """Free what `put` gave a group on these nodes."""
        for i in places:
            for name, amount in request.bundles[0].items():
                self._free[i][name] += amount


def _spread(order: list[int], room: dict[int, int], ranks: int, *, strict: bool) -> list[int]:
    """Nodes in turn, each as often as it has room; once at most where `strict`."""
    places: list[int] = []
    for turn in range(1 if strict else ranks):
        fresh = [i for i in order if room[i] > turn]
        if not fresh or len(places) >= ranks:
            break
        places += fresh
    return places[:ranks]
