"""Pictures of rows: bars with intervals beside a line at 0, and spans of time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.render.svg.drawing import SERIES, box, line, markup, picture, room, shortened, text
from orchestrator.render.svg.scales import Axis

_WIDTH, _ROW, _LEFT, _RIGHT, _BOTTOM = 640, 24, 120, 16, 42


@dataclass(frozen=True)
class Bar:
    """A number with its interval."""

    name: str
    value: float
    low: float
    high: float
    style: int
    said: str
    """In words."""


def bars(title: str, description: str, axis: Axis, rows: Sequence[Bar]) -> str:
    """The markup of bars from 0, which the axis holds, one below another."""
    height, names = _ROW * len(rows) + _BOTTOM, [shortened(row.name) for row in rows]
    root, left = picture(_WIDTH, height, title, description), room(names, _LEFT)

    def across(value: float) -> float:
        return left + min(max(axis.share(value), 0.0), 1.0) * (_WIDTH - _RIGHT - left)

    floor = _ROW * len(rows) + 4
    for value in axis.ticks():
        line(root, (across(value), 0), (across(value), floor), "axis" if value == 0 else "grid")
        text(root, (across(value), floor + 14), axis.text(value), anchor="middle")
    text(root, ((left + _WIDTH - _RIGHT) / 2, height - 6), axis.label, "label", "middle")
    for i, row in enumerate(rows):
        top, middle = i * _ROW + 5, i * _ROW + _ROW / 2 + 2
        text(root, (left - 8, middle + 4), names[i], anchor="end")
        if not math.isfinite(row.value):
            continue
        start, end = sorted((across(0.0), across(row.value)))
        box(root, (start, top), (max(end - start, 1), _ROW - 9), f"bar s{row.style % SERIES}", row.said)
        if math.isfinite(row.low) and math.isfinite(row.high):
            line(root, (across(row.low), middle), (across(row.high), middle), "interval")
            for value in (row.low, row.high):
                line(root, (across(value), middle - 4), (across(value), middle + 4), "interval")
    return markup(root)


@dataclass(frozen=True)
class Working:
    """When somebody was at work: seconds from the beginning."""

    name: str
    spans: Sequence[tuple[float, float]]
    style: int


def timeline(title: str, description: str, rows: Sequence[Working]) -> str:
    """The markup of spans of time, a row for each who worked."""
    end = max((stop for row in rows for _, stop in row.spans), default=1.0)
    axis, height = Axis("seconds since the first", 0.0, max(end, 1e-3)), _ROW * len(rows) + _BOTTOM
    names = [shortened(row.name) for row in rows]
    root, left = picture(_WIDTH, height, title, description), room(names, _LEFT)
    floor = _ROW * len(rows) + 4
    scale = (_WIDTH - _RIGHT - left) / axis.high
    for value in axis.ticks():
        line(root, (left + value * scale, 0), (left + value * scale, floor), "grid")
        text(root, (left + value * scale, floor + 14), axis.text(value), anchor="middle")
    text(root, ((left + _WIDTH - _RIGHT) / 2, height - 6), axis.label, "label", "middle")
    for i, row in enumerate(rows):
        text(root, (left - 8, i * _ROW + _ROW / 2 + 6), names[i], anchor="end")
        for start, stop in row.spans:
            said = f"{row.name}: {start:,.0f} to {stop:,.0f} s"
            place = (left + start * scale, i * _ROW + 5)
            box(root, place, (max((stop - start) * scale, 0.5), _ROW - 9), f"bar s{row.style % SERIES}", said)
    return markup(root)
