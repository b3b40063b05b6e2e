"""When teacher and students worked, from the events of a run. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


def timing(events: Iterable[dict[str, Any]], wall_s: float) -> dict[str, float]:
    """Seconds of the run's parts.

    `teacher_s`: time covered by units being taught. `students_s`: seconds of the clock in which a student stepped.
    `overlap_s`: seconds of the clock in which the teacher worked and at least two students stepped.
    """
    spans: list[tuple[float, float]] = []
    stepped: dict[int, set[str]] = {}
    for event in events:
        if event["kind"] == "unit" and event["taught"]:
            spans.append((event["started"], event["finished"]))
        elif event["kind"] == "student":
            for second in event.get("seconds", ()):
                stepped.setdefault(second, set()).add(event["student"])
    taught = {s for start, end in spans for s in range(int(start), int(end) + 1)}
    return {
        "teacher_s": round(_union(spans), 2),
        "students_s": float(len(stepped)),
        "wall_s": round(wall_s, 2),
        "overlap_s": float(sum(len(stepped.get(s, ())) >= 2 for s in taught)),
    }


def _union(spans: list[tuple[float, float]]) -> float:
    total, reached = 0.0, float("-inf")
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total
