"""When a run's present work will be done, from how fast its parts are now. Pure."""

from __future__ import annotations

import heapq
from collections.abc import Sequence

from orchestrator.monitors.progress import Part, Progress


def seconds_left(progress: Progress) -> float | None:
    """Until the present stage's work is done: capture and training, or the evaluation. None where nothing is measured
    of it yet, and where there is none.

    What a specialist's workers train one after another adds up, at its pace when it does not wait: what it waits for is
    the teacher, which counts by itself. Specialists without a place begin when others end, at the mean pace of those at
    work.
    """
    if progress.ended is not None:
        return None
    if progress.stage == "evaluate":
        return _evaluation_left(progress)
    chains = _chains(progress)
    paces = [pace for part in progress.students.values() if (pace := _pace(part))]
    mean = sum(paces) / len(paces) if paces else None
    running, queued = list[float](), list[float]()
    for chain in chains:
        if (left := _left(chain, mean)) is None:
            return None
        (queued if all(part.state == "queued" for part in chain) else running).append(left)
    ends = _with_queued(running, queued)
    teacher = progress.teacher
    if teacher.total and teacher.state not in ("done", "queued"):
        if teacher.left_s is None:
            return None
        ends.append(teacher.left_s)
    return max(ends, default=None)


def _chains(progress: Progress) -> list[list[Part]]:
    """Students that are not done, by whose workers train them; what one that failed was to be followed by is not."""
    found: dict[str, list[Part]] = {}
    for name, part in progress.students.items():
        found.setdefault(name.partition(".")[0], []).append(part)
    chains = [[p for p in chain if p.state != "done"] for chain in found.values()]
    return [chain for chain in chains if chain and all(part.state != "failed" for part in chain)]


def _pace(part: Part) -> float | None:
    """Tokens a second in which it does not wait, also of one that waits just now."""
    return part.free_pace.per_second or None


def _evaluation_left(progress: Progress) -> float | None:
    """By how fast scores are made now, or were from the beginning on, whichever is slower: models differ much."""
    part = progress.evaluation
    if (left := part.left_s) is None or not (overall := part.pace.overall):
        return left
    return max(left, (part.total - part.done) / overall)


def _left(chain: Sequence[Part], mean: float | None) -> float | None:
    """Seconds of a chain at its own pace, else at the mean one."""
    own = next((pace for part in chain if (pace := _pace(part))), mean)
    tokens = sum(max(part.total - part.done, 0) for part in chain)
    return tokens / own if own else None


def _with_queued(running: Sequence[float], queued: Sequence[float]) -> list[float]:
    """When each ends, where those that are queued take the places of those that end, the longest first."""
    ends, places = list(running), list(running) or [0.0]
    heapq.heapify(places)
    for left in sorted(queued, reverse=True):
        ends.append(heapq.heappop(places) + left)
        heapq.heappush(places, ends[-1])
    return ends
