"""Which nodes a run's cluster has, and which of its parts look for a place, from its events. Pure."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

from workers.channels.events import NodeJoined, NodeLeft, PlaceEnded, PlaceWanted


class Waiting(NamedTuple):
    """A part that looks for a place, or for several."""

    part: str
    """A student, or `teacher NAME`."""
    places: int
    since: float
    """Of the one that waits longest."""


@dataclass
class Members:
    """Nodes, and places that are looked for, as they are told of."""

    nodes: dict[str, str] = field(default_factory=dict)
    """Roles, by node."""
    _wanted: dict[str, PlaceWanted] = field(default_factory=dict)

    def take(self, event: NodeJoined | NodeLeft | PlaceWanted | PlaceEnded) -> None:
        """Take an event in."""
        match event:
            case NodeJoined(node=node, role=role):
                self.nodes[node] = role
            case NodeLeft(node=node):
                self.nodes.pop(node, None)
            case PlaceWanted(place=place):
                self._wanted[place] = event
            case PlaceEnded(place=place):
                self._wanted.pop(place, None)

    def forget_all(self) -> None:
        """An attempt ended, or another one begins."""
        self.nodes.clear()
        self._wanted.clear()

    @property
    def roles(self) -> dict[str, int]:
        """How many nodes there are of each role."""
        return dict(sorted(Counter(self.nodes.values()).items()))

    @property
    def waiting(self) -> list[Waiting]:
        """The parts that look for places, who waits longest first."""
        found = dict[str, Waiting]()
        for one in self._wanted.values():
            part = one.student or f"teacher {one.teacher}"
            before = found.get(part, Waiting(part, 0, one.time))
            found[part] = Waiting(part, before.places + 1, min(before.since, one.time))
        return sorted(found.values(), key=lambda one: one.since)
