"""What a person sees while a run works: a live table on a terminal, plain lines in a log.

Takes events {kind, time, ...} from the workers (workers/progress.py) and from the pipeline.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

_LINE_EVERY_S = 5.0
"""Seconds between two plain lines about the same part, at least."""


@dataclass
class StudentState:
    """The newest news of one student."""

    state: str = "starting"
    tokens: int = 0
    budget: int = 0
    loss: float | None = None
    note: str = ""
    started: float = 0.0
    started_tokens: int = 0

    def line(self) -> str:
        part = f"{self.tokens:,}/{self.budget:,} tokens" if self.budget else ""
        loss = f"loss {self.loss:.3f}" if self.loss is not None else ""
        return "  ".join(x for x in (self.state, part, loss, self.note) if x)


@dataclass
class TeacherState:
    """The newest news of the pool."""

    units: int = 0
    planned: int = 0
    targets: int = 0
    bytes: int = 0
    set_aside: int = 0
    first: float = 0.0
    last: float = 0.0
    note: str = "starting"

    def line(self) -> str:
        if not self.planned:
            return "nothing to teach: every unit is committed"
        parts = [f"{self.units}/{self.planned} units"]
        if self.units:
            rate = self.targets / max(self.last - self.first, 1e-3)
            parts += [f"{rate:,.0f} tokens/s", f"{self.bytes / max(self.targets, 1):.1f} B/token"]
            left = (self.planned - self.units) * (self.last - self.first) / self.units
            parts += ["done"] if self.units >= self.planned else [f"{left:.0f} s left"]
        elif self.note:
            parts.append(self.note)
        if self.set_aside:
            parts.append(f"{self.set_aside} texts set aside")
        return "  ".join(parts)


@dataclass
class ProgressView:
    """Shows a run. Use as a context manager; feed it events."""

    console: Console = field(default_factory=lambda: Console(file=sys.stdout, highlight=False))
    teacher: TeacherState = field(default_factory=TeacherState)
    students: dict[str, StudentState] = field(default_factory=dict)
    _live: Live | None = None
    _said: dict[str, tuple[float, str]] = field(default_factory=dict)
    _start: float = field(default_factory=time.time)

    def __enter__(self) -> ProgressView:
        if self.console.is_terminal:
            self._live = Live(self._table(), console=self.console, refresh_per_second=4, transient=True)
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def say(self, text: str) -> None:
        """A line that stays."""
        self.console.print(
            f"[dim]{time.time() - self._start:6.1f} s[/dim]  {escape(text)}", soft_wrap=not self.console.is_terminal
        )

    def event(self, event: dict[str, Any]) -> None:
        """Take one event in and show what it changed."""
        kind = event["kind"]
        if kind == "unit":
            self._unit(event)
            self._update("teacher", self.teacher.line(), final=self.teacher.units >= self.teacher.planned)
        elif kind == "teacher":
            self.teacher.note = event.get("note", self.teacher.note)
            if event.get("note"):
                self.say(event["note"])
            if event.get("ready"):
                held = [f"{f['weights_held']:,}" for f in event["facts"]]
                self.say(f"teacher {event['name']} is ready: weights held by its ranks {' + '.join(held)}")
        elif kind == "student":
            state = self.students.setdefault(event["student"], StudentState())
            self._student(state, event)
            self._update(event["student"], state.line(), final=event["state"] in ("done", "failed"))
        elif kind == "notice":
            self.say(f"{event['student']}: {event['text']}")
        elif kind == "damaged":
            self.say(f"{event['student']}: unit {event['unit']} is damaged: {event['reason']}")
        elif kind == "evaluate":
            self._update("evaluate", f"{event['model']} on {event['domain']}")
        if self._live is not None:
            self._live.update(self._table())

    def _unit(self, event: dict[str, Any]) -> None:
        t = self.teacher
        t.units += 1
        t.first = min(t.first or event["started"], event["started"])
        t.last = max(t.last, event["finished"])
        t.targets += event["targets"]
        t.bytes += event["bytes"] if event["split"] == "train" else 0
        t.set_aside += event["set_aside"]
        if event.get("repair"):
            contents = "other contents than before" if event["content_changed"] else "the same contents"
            self.say(f"unit {event['unit']} of the {event['split']} store is taught again, with {contents}")

    def _student(self, state: StudentState, event: dict[str, Any]) -> None:
        if event["state"] == "waiting":
            unit, seconds = event["unit"], f"({event['waited']:.0f} s)"
            state.state, state.note = "waiting", f"for unit {unit} {seconds}"
            if event.get("damage"):
                state.note = f"unit {unit} is damaged: {event['damage']}, waiting for it to be taught again {seconds}"
            return
        if event["state"] != "checkpoint":
            state.state, state.note = event["state"], event.get("note", "")
        state.tokens = event.get("tokens", state.tokens)
        state.budget = event.get("budget", state.budget)
        state.loss = event.get("loss", state.loss)

    def _update(self, part: str, line: str, final: bool = False) -> None:
        """A plain line about a part, now and then; on a terminal the table shows it."""
        if self._live is not None:
            return
        now, last = time.time(), self._said.get(part)
        if last is None or (final and line != last[1]) or now - last[0] >= _LINE_EVERY_S:
            self._said[part] = (now, line)
            self.say(f"{part:24s} {line}")

    def _table(self) -> Table:
        table = Table.grid(padding=(0, 2))
        table.add_row("[bold]teacher[/bold]", escape(self.teacher.line()))
        for name, state in self.students.items():
            style = "red" if state.state == "failed" else "green" if state.state == "done" else ""
            table.add_row(f"[bold]{name}[/bold]", escape(state.line()), style=style)
        return table
