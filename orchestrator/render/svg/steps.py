"""A picture of how many there were of something over time, a row for each kind, above rows of spans."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.render.svg.drawing import SERIES, box, line, markup, picture, room, shortened, text
from orchestrator.render.svg.rows import Working
from orchestrator.render.svg.scales import Axis

_WIDTH, _HIGH, _ROW, _LEFT, _RIGHT, _BOTTOM = 640, 40, 24, 120, 16, 42


@dataclass(frozen=True)
class Counted:
    """How many there were from a time on: seconds from the beginning, in order. 0 before."""

    name: str
    counts: Sequence[tuple[float, int]]
    style: int

    @property
    def most(self) -> int:
        """At once."""
        return max((count for _, count in self.counts), default=0)


def steps(title: str, description: str, rows: Sequence[Counted], spans: Sequence[Working]) -> str:
    """The markup of counts, each as high as its own most, and of spans below them."""
    ends = [at for row in rows for at, _ in row.counts] + [stop for one in spans for _, stop in one.spans]
    axis = Axis("seconds since the run began", 0.0, max([*ends, 1e-3]))
    floor = _HIGH * len(rows) + _ROW * len(spans) + 4
    names = [shortened(f"{row.name}: up to {row.most}") for row in rows] + [shortened(one.name) for one in spans]
    root, left = picture(_WIDTH, floor + _BOTTOM - 4, title, description), room(names, _LEFT)
    scale = (_WIDTH - _RIGHT - left) / axis.high
    for value in axis.ticks():
        line(root, (left + value * scale, 0), (left + value * scale, floor), "grid")
        text(root, (left + value * scale, floor + 14), axis.text(value), anchor="middle")
    text(root, ((left + _WIDTH - _RIGHT) / 2, floor + _BOTTOM - 10), axis.label, "label", "middle")
    for i, row in enumerate(rows):
        base = (i + 1) * _HIGH
        text(root, (left - 8, base - _HIGH / 2 + 8), names[i], anchor="end")
        line(root, (left, base), (_WIDTH - _RIGHT, base), "axis")
        until = [*(at for at, _ in row.counts[1:]), axis.high]
        for (start, count), stop in zip(row.counts, until, strict=True):
            if count:
                high = (_HIGH - 8) * count / row.most
                said = f"{count} {row.name}: {start:,.0f} to {stop:,.0f} s"
                size = max((stop - start) * scale, 0.5), high
                box(root, (left + start * scale, base - high), size, f"bar s{row.style % SERIES}", said)
    for i, working in enumerate(spans):
        top = _HIGH * len(rows) + i * _ROW
        text(root, (left - 8, top + _ROW / 2 + 6), names[len(rows) + i], anchor="end")
        for start, stop in working.spans:
            said = f"{working.name}: {start:,.0f} to {stop:,.0f} s"
            size = max((stop - start) * scale, 0.5), _ROW - 9
            box(root, (left + start * scale, top + 5), size, f"bar s{working.style % SERIES}", said)
    return markup(root)
