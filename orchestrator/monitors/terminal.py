"""A run on a terminal: bars that move, and above them the lines that stay."""

from __future__ import annotations

import time
from threading import Lock

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.markup import escape

from orchestrator.monitors.frame import frame
from orchestrator.monitors.progress import Progress
from orchestrator.monitors.wording import said
from workers.channels.events import Event

_PER_SECOND = 4


class TerminalMonitor:
    """Draws a run. Events come in one thread, and are drawn by another."""

    def __init__(self, console: Console) -> None:
        self.progress = Progress()
        self._console, self._lock, self._began = console, Lock(), time.time()
        self._live = Live(console=console, get_renderable=lambda: self, refresh_per_second=_PER_SECOND)

    def start(self) -> None:
        """Draw from now on."""
        self._live.start()

    def stop(self) -> None:
        """Draw once more, and leave it there: how far all was."""
        self._live.stop()

    def flush(self, *, force: bool = False) -> None:
        """Nothing to keep."""

    def take(self, event: Event) -> None:
        """Take one event in; a line that it brings stays above the bars."""
        with self._lock:
            self.progress.take(event)
            line = said(event, self.progress)
        if line:
            self._console.print(f"[dim]{time.time() - self._began:6.1f} s[/dim]  {escape(line)}")

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        with self._lock:
            yield frame(self.progress, options.max_width, options.size.height, time.time(), options.ascii_only)
