"""When each part of a run works: teacher and students at once, those that wait for a place as others end, then the
evaluation."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from cluster.nodes.kinds import NodeKind
from orchestrator.config.schema import RunConfig
from orchestrator.config.students import Student, student_groups
from orchestrator.preflight.hours.estimates import Estimate, Estimates, student_tokens
from orchestrator.preflight.planning.record import RunPlan
from orchestrator.preflight.planning.seats import Placeable, Seats


@dataclass(frozen=True)
class Span:
    """When a part works, in seconds after teacher and students begin. None where that is not known."""

    estimate: Estimate
    """Of one of its places."""
    places: tuple[tuple[int, ...], ...] = ()
    """Nodes, by index, of the processes of each group: of each replica, of all workers."""
    seconds: float | None = None
    """Of its work on all its places."""
    starts: float | None = None
    ends: float | None = None
    waits_for_teacher: bool = False
    """Whether most of its time goes to waiting for targets."""

    @property
    def held(self) -> float | None:
        """Seconds for which it has its places."""
        return None if self.starts is None or self.ends is None else self.ends - self.starts


@dataclass
class Timeline:
    """The parts of a run on a cluster, one after another."""

    plan: RunPlan
    config: RunConfig
    items: Sequence[Placeable]
    seats: Seats
    """Empty at first."""
    estimates: Estimates
    share: float = 1.0
    """Of the target tokens that are counted at most, those that there will be."""
    spans: dict[str, Span] = field(default_factory=dict)
    """By name of the part; those that never start have none."""
    _ends: list[tuple[float, str]] = field(default_factory=list)
    """A heap: when each ends of which that is known, and which."""
    _held: dict[str, tuple[Placeable, list[list[int]]]] = field(default_factory=dict)
    """Who holds places now, by name of the part, and which."""

    def lay_out(self) -> None:
        """Fill in the spans."""
        teachers = [i for i in self.items if i.part.kind == "teacher" and i.starts]
        students = [i for i in self.items if i.part.kind == "student"]
        least = [self._put(item, item.groups) for item in teachers]
        own = [self._put(item, 1) for item in students]
        for item, places in zip(teachers, least, strict=True):
            self._capture(item, None if places is None else places + self._further(item))
        queued = []
        for item, places in zip(students, own, strict=True):
            if places is None:
                queued.append(item)
            else:
                self._train(item, places, 0.0)
        while queued and self._ends:
            now, ended = heapq.heappop(self._ends)
            self._leave(ended)
            for item in [*queued]:
                if (places := self._put(item, 1)) is not None:
                    queued.remove(item)
                    self._train(item, places, now)
        for item in queued:
            self.spans[item.part.name] = Span(self._without_place(item))
        self._evaluate()

    @property
    def wall(self) -> float | None:
        """Until the last of them ends; None where one is not known."""
        ends = [span.ends for span in self.spans.values()]
        return max((end for end in ends if end is not None), default=None) if None not in ends else None

    def _put(self, item: Placeable, groups: int) -> list[list[int]] | None:
        """Give groups of a part their places; None where not all find one."""
        found = list[list[int]]()
        for _ in range(groups):
            if (places := self.seats.put(item)) is None:
                for group in found:
                    self.seats.give_back(item, group)
                return None
            found.append(places)
        self._held.setdefault(item.part.name, (item, []))[1].extend(found)
        return found

    def _leave(self, name: str) -> None:
        """Free the places of a part."""
        item, places = self._held.pop(name)
        for group in places:
            self.seats.give_back(item, group)

    def _further(self, item: Placeable) -> list[list[int]]:
        """Places of replicas above the least, while all others have theirs."""
        found = list[list[int]]()
        while item.groups + len(found) < item.most_groups and (one := self._put(item, 1)) is not None:
            found += one
        return found

    def _capture(self, item: Placeable, places: list[list[int]] | None) -> None:
        """All replicas of a teacher share its work."""
        name = item.part.name
        if places is None:
            self.spans[name] = Span(Estimate(why="not all of its least replicas find a place"))
            return
        teacher = name.removeprefix("teacher ")
        each = [self._slowest(group, lambda kind: self.estimates.replica(teacher, kind)) for group in places]
        first = next((e for e in each if e.seconds is None), each[0])
        if first.seconds is None:
            self.spans[name] = Span(first, _frozen(places))
            return
        speed = sum(1 / e.seconds for e in each if e.seconds)
        seconds = first.start + (1 / speed if speed else 0.0)
        self._span(item, Span(first, _frozen(places), seconds, 0.0, seconds))

    def _train(self, item: Placeable, places: list[list[int]], now: float) -> None:
        """A specialist and what its workers train after it. Until all targets are there it cannot be past the first
        time that it reads them."""
        group = self.group(item.part.name)
        estimate = self._slowest(places[0], lambda kind: self.estimates.students(group, kind))
        name = item.part.name
        if estimate.seconds is None:
            self.spans[name] = Span(estimate, _frozen(places))
            return
        captured = self._captured(group[0].mix)
        if captured is None:
            self.spans[name] = Span(estimate, _frozen(places), estimate.seconds, now)
            return
        own = next(iter(estimate.steps.values()))
        needed, once = student_tokens(group[0]), self._read_once(group[0])
        alone = now + own
        there = max(captured * min(1.0, needed / once), now) + own * max(0.0, 1 - once / needed)
        ends = max(alone, there) + estimate.seconds - own
        waits = there - alone > estimate.seconds
        self._span(item, Span(estimate, _frozen(places), estimate.seconds, now, ends, waits))

    def _without_place(self, item: Placeable) -> Estimate:
        """That of a specialist of which it is not known when, or that, it finds a place."""
        group, able = self.group(item.part.name), self.seats.able(item.request)
        if not able:
            return Estimate(why="it finds no place")
        found = self._slowest(able, lambda kind: self.estimates.students(group, kind))
        return found if found.seconds is None else Estimate(why="when it finds a place is not known")

    def _evaluate(self) -> None:
        """When all others have ended, in as many processes as find room."""
        for item in self.items:
            if item.part.kind != "evaluator":
                continue
            begins = self.wall
            for name in [*self._held]:
                self._leave(name)
            places = list[list[int]]()
            while len(places) < item.part.count and (one := self._put(item, 1)) is not None:
                places += one
            if not places:
                self.spans[item.part.name] = Span(Estimate(why="it finds no place"))
                continue
            estimate = self._slowest([p for group in places for p in group], self.estimates.evaluation)
            seconds = None if estimate.seconds is None else estimate.seconds / len(places)
            ends = None if seconds is None or begins is None else begins + seconds
            self.spans[item.part.name] = Span(estimate, _frozen(places), seconds, begins, ends)

    def _span(self, item: Placeable, span: Span) -> None:
        self.spans[item.part.name] = span
        assert span.ends is not None
        heapq.heappush(self._ends, (span.ends, item.part.name))

    def group(self, part: str) -> list[Student]:
        """What the workers of a part train, one after another."""
        name = part.removeprefix("specialist ")
        [group] = [group for group in student_groups(self.config) if group[0].name == name]
        return group

    def _captured(self, mix: Iterable[str]) -> float | None:
        """When the teachers of some domains have ended."""
        teachers = {t for domain in mix for t in self.plan.teachers.get(domain, ())}
        ends = [self.spans[f"teacher {t}"].ends for t in teachers if f"teacher {t}" in self.spans]
        return None if None in ends else max((end for end in ends if end is not None), default=0.0)

    def _read_once(self, student: Student) -> float:
        """Target tokens that it has trained on when the first of its domains begins again."""
        there = self.plan.workload.train
        each = [self.share * there[d].targets / part for d, part in student.mix.items() if part and d in there]
        return max(min(each, default=0.0), 1.0)

    def _slowest(self, places: Sequence[int], estimate_on: Callable[[NodeKind | None], Estimate]) -> Estimate:
        """That of the kind of node among some on which a part takes longest; one that is not known goes before."""
        kinds = {getattr(kind, "name", None): kind for kind in map(self.seats.kind, places)}
        each = [estimate_on(kind) for kind in kinds.values()]
        return max(each, key=lambda e: float("inf") if e.seconds is None else e.seconds)


def _frozen(places: Sequence[Sequence[int]]) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(group) for group in places)
