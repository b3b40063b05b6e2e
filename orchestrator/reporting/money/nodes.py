"""Which nodes a run's cluster had while it worked, and when places were looked for, from the events of all attempts.

A node counts from when it joined, or the attempt began, to when it left, or the last word of the attempt: what it costs
before and after is not this run's. Beside that stands a cluster that does not change: for all of that time as many
nodes of each role as there were at most.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from workers.channels.events import Event, NodeJoined, NodeLeft, PlaceEnded, PlaceWanted, RunStarted

Span = tuple[float, float]
"""Seconds since the run began."""

_SHOWN = 400
"""Parts of a run's time: what is shorter is not told in a picture."""


@dataclass(frozen=True, kw_only=True)
class RoleNodes:
    """The nodes of one role."""

    nodes: int
    """How many there were, one after another or at once."""
    most: int
    """At once."""
    node_s: float
    """Seconds of them all."""
    counts: tuple[tuple[float, int], ...]
    """How many there were from a time on, in seconds since the run began; of changes at almost the same time the
    last."""


@dataclass(frozen=True, kw_only=True)
class PlacesWanted:
    """The places that teachers, or students, looked for."""

    places: int
    """That were found."""
    longest_s: float
    """The longest time until one was found."""
    spans: tuple[Span, ...]
    """When any was looked for."""


@dataclass(frozen=True, kw_only=True)
class NodesReport:
    """A cluster that had several nodes, while the run worked."""

    seconds: float
    """How long all attempts were at work, by their events."""
    roles: dict[str, RoleNodes]
    wanted: dict[str, PlacesWanted]
    """By `teachers` and `students`."""
    node_s: float
    fixed_node_s: float
    """Of a cluster that always has the most nodes of each role."""

    @property
    def saved(self) -> float:
        """What nodes that came and left have saved of a fixed cluster, 0 to 1."""
        return 1 - self.node_s / self.fixed_node_s if self.fixed_node_s else 0.0


@dataclass
class NodeTimes:
    """Spans of nodes and of searches for places, as they are told of."""

    _began: float | None = None
    """When the first attempt began."""
    _start: float = 0.0
    """When this attempt did."""
    _last: float = 0.0
    _seconds: float = 0.0
    """Of earlier attempts."""
    _here: dict[str, NodeJoined] = field(default_factory=dict)
    _wanted: dict[str, PlaceWanted] = field(default_factory=dict)
    _spans: dict[str, list[Span]] = field(default_factory=dict)
    """Of nodes, by role."""
    _ids: dict[str, set[str]] = field(default_factory=dict)
    _searches: dict[str, list[Span]] = field(default_factory=dict)
    _found: dict[str, list[float]] = field(default_factory=dict)
    """Seconds until places were found."""

    def take(self, event: Event) -> None:
        """Take an event in."""
        if isinstance(event, RunStarted) or self._began is None:
            self._close(self._last)
            self._start = self._last = event.time
            self._began = self._start if self._began is None else self._began
        self._last = max(self._last, event.time)
        match event:
            case NodeJoined(node=node, role=role):
                self._here[node] = event
                self._ids.setdefault(role, set()).add(node)
            case NodeLeft(node=node, left=left):
                self._end_node(node, left)
            case PlaceWanted(place=place):
                self._end_search(place, event.time, found=False)
                self._wanted[place] = event
            case PlaceEnded(place=place, found=found):
                self._end_search(place, event.time, found=found)

    def report(self) -> NodesReport | None:
        """What there was up to the last word; None where there were never two nodes at once. Takes no events after."""
        self._close(self._last)
        seconds, least = self._seconds, self._seconds / _SHOWN
        every = [span for spans in self._spans.values() for span in spans]
        if most_of(every) < 2:
            return None
        roles = {
            role: RoleNodes(
                nodes=len(self._ids[role]),
                most=most_of(spans),
                node_s=round(sum(end - start for start, end in spans), 2),
                counts=_thinned(counts_of(spans), least),
            )
            for role, spans in sorted(self._spans.items())
        }
        wanted = {
            part: PlacesWanted(
                places=len(self._found[part]),
                longest_s=round(max(self._found[part], default=0.0), 2),
                spans=_joined(spans),
            )
            for part, spans in sorted(self._searches.items())
        }
        return NodesReport(
            seconds=round(seconds, 2),
            roles=roles,
            wanted=wanted,
            node_s=round(sum(role.node_s for role in roles.values()), 2),
            fixed_node_s=round(sum(role.most for role in roles.values()) * seconds, 2),
        )

    def _end_node(self, node: str, at: float) -> None:
        if (joined := self._here.pop(node, None)) is not None:
            self._note(self._spans, joined.role, joined.joined, at)

    def _end_search(self, place: str, at: float, *, found: bool) -> None:
        if (wanted := self._wanted.pop(place, None)) is None:
            return
        part = "students" if wanted.student else "teachers"
        self._note(self._searches, part, wanted.time, at)
        waited = self._found.setdefault(part, [])
        if found:
            waited.append(max(at - wanted.time, 0.0))

    def _note(self, spans: dict[str, list[Span]], name: str, start: float, end: float) -> None:
        """A span, as far as it lies in this attempt."""
        start, began = max(start, self._start), self._began or 0.0
        spans.setdefault(name, []).append((start - began, max(end, start) - began))

    def _close(self, at: float) -> None:
        """End an attempt."""
        for node in list(self._here):
            self._end_node(node, at)
        for place in list(self._wanted):
            self._end_search(place, at, found=False)
        self._seconds, self._start = self._seconds + at - self._start, at


def counts_of(spans: Iterable[Span]) -> list[tuple[float, int]]:
    """How many spans there are from a time on, in order."""
    found, count = list[tuple[float, int]](), 0
    for at, step in sorted([(start, 1) for start, _ in spans] + [(end, -1) for _, end in spans]):
        count += step
        if found and found[-1][0] == at:
            found.pop()
        found.append((at, count))
    return found


def most_of(spans: Iterable[Span]) -> int:
    """How many spans there are at once, at most."""
    return max((count for _, count in counts_of(list(spans))), default=0)


def _thinned(counts: Sequence[tuple[float, int]], least: float) -> tuple[tuple[float, int], ...]:
    """Without those that last shorter than a picture shows."""
    found = list[tuple[float, int]]()
    for at, count in counts:
        if found and at - found[-1][0] < least:
            found[-1] = found[-1][0], count
        else:
            found.append((round(at, 2), count))
    return tuple(found)


def _joined(spans: Sequence[Span]) -> tuple[Span, ...]:
    """When there is any of them."""
    found, since = list[Span](), None
    for at, count in counts_of(spans):
        if count and since is None:
            since = at
        elif not count and since is not None:
            found.append((round(since, 2), round(at, 2)))
            since = None
    return tuple(found)
