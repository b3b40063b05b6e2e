"""A run in a pipe or a job's log: plain lines, few enough to keep."""

from __future__ import annotations

import time
from collections import Counter

from rich.console import Console

from orchestrator.monitors.progress import Part, Progress, State
from orchestrator.monitors.wording import changed, detail, left, percent, said, speed
from workers.channels.events import Event

_SUMMARY_S = (10.0, 300.0)
"""Seconds between two summaries: at first, and at most."""

_AGE_SHARE = 0.05
"""Seconds between two summaries per second that the run is old, between these limits."""

_MOST_PARTS = 8
"""Parts that a summary names; the others are counted."""


class LogMonitor:
    """Writes lines: what is said, that a part begins or is done, and now and then how far all is."""

    def __init__(self, console: Console) -> None:
        self.progress = Progress()
        self._console = console
        self._began = self._summed = time.time()
        self._states: dict[int, State] = {}
        self._last = ""

    def start(self) -> None:
        """Nothing to do."""

    def stop(self) -> None:
        """Say how far all is."""
        self._summarise()

    def flush(self, *, force: bool = False) -> None:
        """Say how far all is, if it is time to."""
        least, most = _SUMMARY_S
        now = time.time()
        if now - self._summed >= min(max(least, _AGE_SHARE * (now - self._began)), most):
            self._summarise()

    def take(self, event: Event) -> None:
        """Take one event in, and say what it brings."""
        part = self.progress.take(event)
        if line := said(event, self.progress):
            self._say(line)
        if part is not None:
            self._tell_change(part)
        self.flush()

    def _say(self, line: str) -> None:
        self._console.print(f"{time.time() - self._began:6.1f} s  {line}", markup=False, soft_wrap=True)

    def _tell_change(self, part: Part) -> None:
        """That a student trains, or a part is done. What one failed of is said by who found it."""
        before, self._states[id(part)] = self._states.get(id(part), "queued"), part.state
        if line := changed(part, before):
            self._say(line)

    def _summarise(self) -> None:
        """One line of all parts that are under way, unless it would be the last one again."""
        self._summed = time.time()
        line = summary(self.progress)
        if line and line != self._last:
            self._last = line
            self._say(line)


def summary(progress: Progress) -> str:
    """A run as it stands, in one line: parts that are under way, and how many others there are."""
    under_way = [part for part in progress.parts if part.state in ("loading", "waiting", "working")]
    named = under_way[:_MOST_PARTS]
    others = Counter(part.state for part in progress.parts if part not in named)
    words = [_summed(part, progress) for part in named] + [f"{number} {state}" for state, number in others.items()]
    return " | ".join(words) if named else ""


def _summed(part: Part, progress: Progress) -> str:
    words = [f"{part.name} {percent(part)}"]
    words += [f"loss {part.loss:.3f}"] if part.loss is not None else []
    about = detail(part, progress)
    if part.state == "working":
        words += [speed(part), f"{left(part)} left" if left(part) else "", about]
    else:
        words.append(f"{part.state} {about}".rstrip())
    return ", ".join(filter(None, words))
