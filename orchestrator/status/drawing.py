"""A run's state for a person: its bars, and below them lines. Pure."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.text import Text

from cluster.holder import local_time
from cluster.lease import Attempt
from orchestrator.monitors.frame import frame
from orchestrator.monitors.wording import clock
from orchestrator.render.spent import amount_words, spent_lines
from orchestrator.status.view import RunView

_STYLES = {"running": "cyan", "done": "green", "failed": "bold red", "silent": "bold red", "stopped": "yellow"}

_FEW_S = 1.0
"""Waiting that is worth a line, in seconds."""


class Drawn:
    """A view of a run as rich draws it, at the size that there is."""

    def __init__(self, view: RunView) -> None:
        self._view = view

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        view, now = self._view, time.time()
        lines = [Text(line, style=style) for line, style in lines_of(view, now)]
        height = max((options.height or options.size.height) - len(lines), 8)
        yield Group(_bars(view, now, options, height), *lines)


def print_status(view: RunView, out: Console) -> None:
    """Print a run's state; where there is no terminal, lines are as long as they are."""
    now = time.time()
    if view.progress.began is not None:
        out.print(_bars(view, now, out.options, _ALL))
    for line, style in lines_of(view, now):
        out.print(Text(line, style=style), soft_wrap=not out.is_terminal)


_ALL = 1000
"""Lines that there is room for where nothing is redrawn."""


def _bars(view: RunView, now: float, options: ConsoleOptions, height: int) -> RenderableType:
    until = now if view.state(now) == "running" else view.last_event or now
    return frame(view.progress, options.max_width, height, until, options.ascii_only)


def lines_of(view: RunView, now: float) -> list[tuple[str, str]]:
    """Lines with their styles: how it stands, who waited, on which nodes, what failed, what it took, until when."""
    state = view.state(now)
    lines = [(f"{state}: {_driver(view, now)}", _STYLES.get(state, ""))]
    for name, part in view.progress.students.items():
        if part.waits.seconds >= _FEW_S and part.waits.share is not None:
            said = f"{name} waited for units {part.waits.seconds:,.0f} s, {part.waits.share:.0%} of its time at work"
            lines.append((said, ""))
    lines += [(line, "") for line in _members(view, now)]
    lines += [(f"FAILED {name}: {cause}", "red") for name, cause in view.failures().items()]
    spent = view.spent()
    if spent.total.cpu_s or spent.total.gpu_s:
        lines.append((f"cost so far: {amount_words(spent.total)}", ""))
        lines += [(line, "") for line in spent_lines(spent)]
    if (left := view.eta_s(now)) is not None:
        what = "evaluation" if view.progress.stage == "evaluate" else "capture and training"
        lines.append((f"{what} done in about {clock(left)} (at {local_time(now + left)})", "bold"))
    return lines


_MOST_WAITING = 4
"""Parts that wait for a place, which are named."""


def _members(view: RunView, now: float) -> list[str]:
    """Of a run at work: which nodes a cluster of several has, and who waits for a place since when."""
    members, lines = view.progress.members, list[str]()
    if view.state(now) != "running":
        return lines
    if len(members.nodes) > 1:
        lines.append(f"nodes: {', '.join(f'{number} {role}' for role, number in members.roles.items())}")
    waiting = [f"{part}{f' ({n})' if n > 1 else ''} since {clock(now - since)}" for part, n, since in members.waiting]
    if waiting:
        more = [f"and {len(waiting) - _MOST_WAITING} more"] if len(waiting) > _MOST_WAITING else []
        lines.append(f"waits for a place: {', '.join(waiting[:_MOST_WAITING] + more)}")
    return lines


def _driver(view: RunView, now: float) -> str:
    """Who drives it, and since when nothing was heard of it."""
    if not view.attempts:
        return "no driver is known of"
    last = view.attempt(-1, now)
    who = f"attempt {last['number']} ({view.attempts[-1].holder})"
    match last["state"]:
        case "ended":
            return f"{who} ended at {local_time(last['ended'])}"
        case "gone":
            return f"{who}: its process is gone, {_ago(last)}; type the run's command again, and it goes on"
        case "silent":
            return f"{who} has been silent for {clock(last['silent_s'])}; if it is gone, the same command resumes"
        case _:
            return f"{who}, {_ago(last)}{_asked(view.attempts[-1])}"


def _asked(attempt: Attempt) -> str:
    """Of a driver at work: that it was asked to leave, how and by whom."""
    return f"; asked to stop {attempt.asked.how} (by {attempt.asked})" if attempt.asked is not None else ""


def _ago(driver: Mapping[str, Any]) -> str:
    return f"last sign of life {clock(driver['silent_s'])} ago"
