"""What a person sees while a run works: a live table on a terminal, plain lines in a log."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from workers.channels.events import (
    CaptureStarted,
    CheckpointSaved,
    Event,
    Message,
    ModelScored,
    ReplicaReady,
    StudentState,
    StudentStep,
    StudentWaiting,
    UnitCommitted,
    UnitDamaged,
)

_LINE_EVERY_S = 5.0
"""Seconds between two plain lines about the same part, at least."""


@dataclass
class StudentLine:
    """The newest news of one student."""

    state: str = "starting"
    tokens: int = 0
    budget: int = 0
    loss: float | None = None
    note: str = ""

    def __str__(self) -> str:
        part = f"{self.tokens:,}/{self.budget:,} tokens" if self.budget else ""
        loss = f"loss {self.loss:.3f}" if self.loss is not None else ""
        return "  ".join(x for x in (self.state, part, loss, self.note) if x)

    def take(self, event: StudentState | StudentStep | StudentWaiting | CheckpointSaved) -> None:
        """What an event changes."""
        if isinstance(event, StudentWaiting):
            seconds = f"({event.waited:.0f} s)"
            self.state, self.note = "waiting", f"for unit {event.unit} {seconds}"
            if event.damage:
                self.note = f"unit {event.unit} is damaged: {event.damage}, waiting for it to be recomputed {seconds}"
            return
        if isinstance(event, StudentState):
            self.state, self.note = event.state, event.note
            if event.state in ("training", "done"):
                self.tokens, self.budget = event.tokens, event.budget
            return
        self.tokens = event.tokens
        if isinstance(event, StudentStep):
            self.state, self.note, self.budget, self.loss = "training", "", event.budget, event.loss


@dataclass
class TeacherLine:
    """The newest news of the teachers' pools."""

    units: int = 0
    planned: int = 0
    targets: int = 0
    bytes: int = 0
    rejected: int = 0
    first: float = 0.0
    last: float = 0.0

    def __str__(self) -> str:
        parts = [f"{self.units}/{self.planned} units"]
        if self.units:
            rate = self.targets / max(self.last - self.first, 1e-3)
            parts += [f"{rate:,.0f} tokens/s", f"{self.bytes / max(self.targets, 1):.1f} B/token"]
            left = (self.planned - self.units) * (self.last - self.first) / self.units
            parts += ["done"] if self.units >= self.planned else [f"{left:.0f} s left"]
        else:
            parts.append("starting")
        if self.rejected:
            parts.append(f"{self.rejected} texts rejected")
        return "  ".join(parts)

    def take(self, event: UnitCommitted) -> None:
        """One unit more."""
        self.units += 1
        self.first = min(self.first or event.started, event.started)
        self.last = max(self.last, event.finished)
        self.targets += event.targets
        self.bytes += event.bytes if event.split == "train" else 0
        self.rejected += event.rejected


@dataclass
class ConsoleMonitor:
    """Shows a run on a console."""

    console: Console = field(default_factory=lambda: Console(file=sys.stdout, highlight=False))
    teacher: TeacherLine = field(default_factory=TeacherLine)
    students: dict[str, StudentLine] = field(default_factory=dict)
    scoring: str = ""
    """What the evaluator measures."""
    _live: Live | None = None
    _said: dict[str, tuple[float, str]] = field(default_factory=dict)
    _began: float = field(default_factory=time.time)

    def start(self) -> None:
        """Draw the live table, on a terminal."""
        if self.console.is_terminal:
            self._live = Live(self._table(), console=self.console, refresh_per_second=4, transient=True)
            self._live.start()

    def stop(self) -> None:
        """Take the live table away; what was said stays."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def flush(self, *, force: bool = False) -> None:
        """Nothing to keep."""

    def take(self, event: Event) -> None:
        """Take one event in and show what it changed."""
        match event:
            case Message(text=text, student=student):
                self._say(f"{student}: {text}" if student else text)
            case CaptureStarted(units=units):
                self.teacher.planned += units
            case ReplicaReady(teacher=teacher, weights_held=held):
                ranks = " + ".join(f"{n:,}" for n in held)
                self._say(f"teacher {teacher} is ready: weights held by its ranks {ranks}")
            case UnitCommitted():
                self._unit(event)
            case UnitDamaged(student=student, unit=unit, reason=reason):
                self._say(f"{student}: unit {unit} is damaged: {reason}")
            case StudentState() | StudentStep() | StudentWaiting() | CheckpointSaved():
                line = self.students.setdefault(event.student, StudentLine())
                line.take(event)
                self._update(event.student, str(line), final=line.state in ("done", "failed"))
            case ModelScored(model=model, domain=domain, done=done, units=units):
                self.scoring = f"{model} on {domain}: {done}/{units} units"
                self._update("evaluate", self.scoring)
        if self._live is not None:
            self._live.update(self._table())

    def _unit(self, event: UnitCommitted) -> None:
        self.teacher.take(event)
        if event.revision:
            contents = "other contents than before" if event.content_changed else "the same contents"
            self._say(f"unit {event.unit} of the {event.split} store is recomputed, with {contents}")
        self._update("teacher", str(self.teacher), final=self.teacher.units >= self.teacher.planned)

    def _say(self, text: str) -> None:
        """A line that stays."""
        self.console.print(
            f"[dim]{time.time() - self._began:6.1f} s[/dim]  {escape(text)}", soft_wrap=not self.console.is_terminal
        )

    def _update(self, part: str, line: str, final: bool = False) -> None:
        """A plain line about a part, now and then; on a terminal the table shows it."""
        if self._live is not None:
            return
        now, last = time.time(), self._said.get(part)
        if last is None or (final and line != last[1]) or now - last[0] >= _LINE_EVERY_S:
            self._said[part] = (now, line)
            self._say(f"{part:24s} {line}")

    def _table(self) -> Table:
        table = Table.grid(padding=(0, 2))
        if self.teacher.planned:
            table.add_row("[bold]teacher[/bold]", escape(str(self.teacher)))
        for name, line in self.students.items():
            style = "red" if line.state == "failed" else "green" if line.state == "done" else ""
            table.add_row(f"[bold]{name}[/bold]", escape(str(line)), style=style)
        if self.scoring:
            table.add_row("[bold]evaluate[/bold]", escape(self.scoring))
        return table
