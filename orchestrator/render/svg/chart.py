"""A chart of lines over two axes, each line named where it ends."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from xml.etree import ElementTree as ET

from orchestrator.render.svg.drawing import (
    SERIES,
    Point,
    apart,
    dot,
    line,
    markup,
    path,
    picture,
    room,
    shortened,
    text,
)
from orchestrator.render.svg.scales import Axis

WIDTH, HEIGHT = 640, 320
_LEFT, _TOP, _BOTTOM, _LABELS = 62, 28, 44, 150
"""Room beside the axes; on the right that of the lines' names, at the least."""


@dataclass(frozen=True)
class Series:
    """A line, or points."""

    name: str
    points: Sequence[Point]
    style: int
    """Which of the styles; the same thing has the same one in all pictures."""
    band: Sequence[tuple[float, float, float]] = ()
    """x with the lower and the upper end of an interval."""
    dots: bool = False
    """Whether points are marked."""
    joined: bool = True
    """Whether they are joined by a line."""


def chart(
    title: str,
    description: str,
    x: Axis,
    y: Axis,
    series: Sequence[Series],
    *,
    diagonal: bool = False,
    size: tuple[float, float] = (WIDTH, HEIGHT),
) -> str:
    """The markup of a chart. `diagonal`: with the line on which both axes are equal. Points that an axis does not hold,
    or that are not finite, are left out."""
    frame = _Frame(x, y, *size, room([shortened(one.name) for one in series], _LABELS))
    root = picture(*size, title, description)
    _axes(root, frame)
    if diagonal:
        path(root, [frame.at(v, v) for v in (max(x.low, y.low), min(x.high, y.high))], "ideal")
    for one in series:
        upper = [(a, high) for a, _, high in one.band]
        lower = [(a, low) for a, low, _ in reversed(one.band)]
        path(root, frame.held([*upper, *lower]), f"band s{one.style % SERIES}", closed=True)
    for one in series:
        held = frame.held(one.points)
        if one.joined:
            path(root, held, f"line s{one.style % SERIES}")
        for at, point in zip(held, frame.known(one.points), strict=True) if one.dots else ():
            dot(root, at, f"dot s{one.style % SERIES}", f"{one.name}: {x.text(point[0])}, {y.text(point[1])}")
    _names(root, frame, series)
    return markup(root)


@dataclass(frozen=True)
class _Frame:
    """Where values lie in a picture."""

    x: Axis
    y: Axis
    width: float
    height: float
    labels: float

    @property
    def right(self) -> float:
        return self.width - self.labels

    @property
    def floor(self) -> float:
        return self.height - _BOTTOM

    def at(self, x: float, y: float) -> Point:
        across, up = self.x.share(x), self.y.share(y)
        return _LEFT + across * (self.right - _LEFT), self.floor - up * (self.floor - _TOP)

    def known(self, points: Sequence[Point]) -> list[Point]:
        return [p for p in points if _holds(self.x, p[0]) and _holds(self.y, p[1])]

    def held(self, points: Sequence[Point]) -> list[Point]:
        return [self.at(*p) for p in self.known(points)]


def _holds(axis: Axis, value: float) -> bool:
    slack = 1e-9 * (axis.high - axis.low)
    return math.isfinite(value) and axis.low - slack <= value <= axis.high + slack


def _axes(root: ET.Element, frame: _Frame) -> None:
    for value in frame.y.ticks():
        _, up = frame.at(frame.x.low, value)
        line(root, (_LEFT, up), (frame.right, up), "grid")
        text(root, (_LEFT - 6, up + 4), frame.y.text(value), anchor="end")
    for value in frame.x.ticks():
        across, _ = frame.at(value, frame.y.low)
        line(root, (across, frame.floor), (across, frame.floor + 4), "axis")
        text(root, (across, frame.floor + 17), frame.x.text(value), anchor="middle")
    line(root, (_LEFT, frame.floor), (frame.right, frame.floor), "axis")
    middle = (_LEFT + frame.right) / 2
    text(root, (middle, frame.height - 8), frame.x.label, "label", "middle")
    text(root, (4, 12), frame.y.label, "label")


def _names(root: ET.Element, frame: _Frame, series: Sequence[Series]) -> None:
    """Each series' name beside its last point, moved apart."""
    ends = [(one, held[-1]) for one in series if one.name and (held := frame.held(one.points))]
    ups = apart([end[1] for _, end in ends], 18, _TOP + 8, frame.floor)
    for (one, end), up in zip(ends, ups, strict=True):
        style = f"s{one.style % SERIES}"
        line(root, (end[0] + 2, end[1]), (frame.right + 10, up), f"lead {style}")
        text(root, (frame.right + 14, up + 4), shortened(one.name), f"name {style}")
