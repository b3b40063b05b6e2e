"""A run as it stands, drawn for a terminal: a bar for each part, as wide and as high as there is room. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from orchestrator.monitors.progress import Part, Progress, State
from orchestrator.monitors.wording import amount, clock, detail, left, percent, sparkline, speed

_STYLES: dict[State, str] = {
    "queued": "bright_black",
    "loading": "blue",
    "waiting": "yellow",
    "working": "cyan",
    "done": "green",
    "failed": "red",
}
"""Colours of a terminal's own palette, so that they can be read on light and on dark."""

_FIRST: dict[State, int] = {"failed": 0, "waiting": 1, "loading": 2, "working": 3, "queued": 4, "done": 5}
"""Which states are shown first, where there are more parts than lines."""

_WIDE = 100
"""Columns from which there is room for numbers of units and tokens."""

_ROOM = 4
"""Lines of a terminal that are left to what is said above the bars."""


def frame(progress: Progress, width: int, height: int, now: float, ascii_only: bool = False) -> RenderableType:
    """A run as it stands, on a terminal of so many columns and lines."""
    if progress.began is None:
        return Text("")
    shown, folded = _fitting(progress.parts, max(height - _ROOM, 3))
    return Group(
        _header(progress, width, now - progress.began),
        _table(progress, shown, width, ascii_only),
        *([Text(folded, style="bright_black")] if folded else []),
    )


def _header(progress: Progress, width: int, age_s: float) -> Text:
    """Run, attempt, time and stage, and where it is stored as far as there is room."""
    words = [progress.run, f"attempt {progress.attempt}" if progress.attempt > 1 else ""]
    words += [clock(age_s), progress.stage]
    said = "  ".join(filter(None, words))
    where, room = progress.storage, width - len(said) - 2
    if len(where) > room:
        where = "…" + where[len(where) - room + 1 :]  # its end tells more
    header = Text(said, style="bold", no_wrap=True, overflow="ellipsis")
    return header.append(f"  {where}", style="not bold bright_black") if room > 8 else header


def _fitting(parts: Sequence[Part], most: int) -> tuple[list[Part], str]:
    """The parts that so many lines have room for, in their order, and what the others are."""
    if len(parts) <= most:
        return list(parts), ""
    first = sorted(parts, key=lambda part: _FIRST[part.state])[: most - 1]
    kept = {id(part) for part in first}
    others = Counter(part.state for part in parts if id(part) not in kept)
    counted = ", ".join(f"{number} {state}" for state, number in others.items())
    return [part for part in parts if id(part) in kept], f"and {sum(others.values())} more: {counted}"


def _table(progress: Progress, parts: Sequence[Part], width: int, ascii_only: bool) -> Table:
    """Name, bar and share, what is done (where there is room), speed or state, time left, loss with its curve, and in
    what is left of the width, details."""
    table = Table.grid(padding=(0, 1), expand=True)
    columns = [
        _column(table, [Text(part.name, style="bold") for part in parts], max_width=max(width // 5, 8)),
        _column(table, [_bar(part) for part in parts], width=min(max(width // 6, 6), 30)),
        _column(table, [Text(percent(part), style=_STYLES[part.state]) for part in parts], justify="right"),
    ]
    if width >= _WIDE:
        columns.append(_column(table, [Text(amount(part)) for part in parts], justify="right"))
    cells = min(max((width - 40) // 7, 0), 24) if not ascii_only else 0
    columns += [
        _column(table, [_pace(part) for part in parts], justify="right"),
        _column(table, [Text(left(part)) for part in parts], justify="right"),
        _column(table, [_loss(part, cells, "loss " if width >= _WIDE else "") for part in parts]),
        _column(table, [_details(part, progress) for part in parts], ratio=1),
    ]
    for row in zip(*columns, strict=True):
        table.add_row(*row)
    return table


def _column(table: Table, cells: Sequence[RenderableType], **settings: Any) -> Sequence[RenderableType]:
    """A column whose cells are never broken into lines."""
    table.add_column(no_wrap=True, overflow="ellipsis", **settings)
    return cells


def _bar(part: Part) -> ProgressBar:
    style = _STYLES[part.state]
    return ProgressBar(total=1, completed=part.share, style="bright_black", complete_style=style, finished_style=style)


def _pace(part: Part) -> Text:
    """How fast it is, or what it does instead."""
    return Text(speed(part)) if part.state == "working" else Text(part.state, style=_STYLES[part.state])


def _loss(part: Part, cells: int, label: str) -> Text:
    if part.loss is None:
        return Text("")
    curve = sparkline(part.losses.values(cells)) if cells else ""
    return Text(f"{label}{part.loss:.3f} ").append(curve, style="magenta")


def _details(part: Part, progress: Progress) -> Text:
    return Text(detail(part, progress), style="red" if part.state == "failed" else "bright_black")
