"""When teacher and students worked, from the events of all attempts at a run.

Events are read once, one after another; what is held of them are spans of time, joined where they touch.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from cluster.storage import Storage
from orchestrator.reporting.money.held import Held
from orchestrator.reporting.money.nodes import NodesReport, NodeTimes
from orchestrator.runs.events import read_events
from workers.channels.events import Event, StudentStep, StudentWaiting, UnitCommitted
from workers.layout import EVENTS, WALL

_JOIN_AT = 10_000
"""Spans after which those that touch are joined."""


@dataclass(frozen=True)
class Timing:
    """Seconds of a run's parts."""

    teacher_s: float = 0.0
    """Time covered by units being captured."""
    students_s: float = 0.0
    """Seconds of the clock in which a student stepped."""
    wall_s: float = 0.0
    """How long all attempts together have worked."""
    overlap_s: float = 0.0
    """Seconds of the clock in which the teacher worked and at least two students stepped."""
    spans: dict[str, tuple[tuple[float, float], ...]] = field(default_factory=dict)
    """When `teacher` and each student were at work: seconds since the first of all, in order; breaks that a picture
    would not show are left out."""

    @property
    def else_s(self) -> float | None:
        """How long none of them worked: loading, evaluation, export. None where nothing is known of when they did."""
        if not self.spans or not self.wall_s:
            return None
        both = Spans([span for own in self.spans.values() for span in own])
        return max(self.wall_s - both.seconds, 0.0)


@dataclass(frozen=True)
class Worked:
    """Seconds of a run's parts, and of each student."""

    timing: Timing
    by_student: dict[str, float]
    """Seconds of the clock in which it stepped."""
    held: Held = field(default_factory=Held)
    """Which places were held."""
    nodes: NodesReport | None = None
    """Which nodes there were, where there were several."""


@dataclass
class Spans:
    """Spans of time, as they come; the union of all of them counts."""

    held: list[tuple[float, float]] = field(default_factory=list)
    _next: int = _JOIN_AT

    def add(self, start: float, end: float) -> None:
        """One span more."""
        self.held.append((start, end))
        if len(self.held) >= self._next:
            self.held = self.joined()
            self._next = len(self.held) + _JOIN_AT

    def joined(self) -> list[tuple[float, float]]:
        """The union, in order, as spans that do not touch."""
        union: list[tuple[float, float]] = []
        for start, end in sorted(self.held):
            if union and start <= union[-1][1]:
                union[-1] = (union[-1][0], max(union[-1][1], end))
            else:
                union.append((start, end))
        return union

    @property
    def seconds(self) -> float:
        """Length of the union."""
        return sum(end - start for start, end in self.joined())


def timing_of(storage: Storage, skipped: Callable[[str], None] = lambda why: None) -> Worked:
    """Seconds of a run's parts over all attempts, as far as what they told can be read; `skipped` is told what not."""
    return worked(read_events(storage, skipped), sum(_walls(storage, skipped)))


def _walls(storage: Storage, skipped: Callable[[str], None]) -> Iterator[float]:
    for file in storage.listing(EVENTS):
        if file.key.endswith(f"/{WALL}"):
            try:
                yield float(json.loads(storage.read(file.key))["wall_s"])
            except (OSError, ValueError, KeyError, TypeError) as error:
                skipped(f"{file.key}: {error}")


def worked(events: Iterable[Event], wall_s: float) -> Worked:
    """Seconds of a run's parts, from its events; only places and nodes ask for their order."""
    units = Spans()
    stepped, held, nodes = dict[str, Spans](), Held(), NodeTimes()
    for event in events:
        held.take(event)
        nodes.take(event)
        if isinstance(event, UnitCommitted) and event.won:
            units.add(event.started, event.finished)
        elif isinstance(event, StudentStep | StudentWaiting):
            own = stepped.setdefault(event.student, Spans())
            for second in event.seconds:
                own.add(second, second + 1)
    students = Spans([span for own in stepped.values() for span in own.joined()])
    captured = Spans([(int(start), int(end) + 1) for start, end in units.joined()])
    timing = Timing(
        spans=_since_the_first({"teacher": units.joined(), **{n: own.joined() for n, own in stepped.items()}}),
        teacher_s=round(units.seconds, 2),
        students_s=float(students.seconds),
        wall_s=round(wall_s, 2),
        overlap_s=float(_overlap(captured, list(stepped.values()))),
    )
    return Worked(timing, {student: float(own.seconds) for student, own in stepped.items()}, held, nodes.report())


_SHOWN = 400
"""Parts of a run's time, of which a break that is shorter is not told."""


def _since_the_first(
    spans: dict[str, list[tuple[float, float]]],
) -> dict[str, tuple[tuple[float, float], ...]]:
    """Spans in seconds since the first one, of those who have any; short breaks are closed."""
    there = {name: own for name, own in spans.items() if own}
    first = min((own[0][0] for own in there.values()), default=0.0)
    last = max((own[-1][1] for own in there.values()), default=0.0)
    least, found = (last - first) / _SHOWN, dict[str, tuple[tuple[float, float], ...]]()
    for name, own in there.items():
        closed: list[tuple[float, float]] = []
        for start, end in own:
            if closed and start - closed[-1][1] < least:
                closed[-1] = (closed[-1][0], end)
            else:
                closed.append((start, end))
        found[name] = tuple((round(start - first, 2), round(end - first, 2)) for start, end in closed)
    return found


def _overlap(teacher: Spans, students: list[Spans]) -> float:
    """Seconds that the teacher's spans share with those of at least two students: a sweep over where spans begin and
    end."""
    edges = [(at, step, 0) for start, end in teacher.joined() for at, step in ((start, 1), (end, -1))]
    edges += [(at, 0, step) for own in students for start, end in own.joined() for at, step in ((start, 1), (end, -1))]
    working = stepping = 0
    total, before = 0.0, 0.0
    for at, teacher_step, student_step in sorted(edges):
        if working and stepping >= 2:
            total += at - before
        working, stepping, before = working + teacher_step, stepping + student_step, at
    return total
