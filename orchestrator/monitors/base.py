"""Who is told what a run tells: monitors behind one interface."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Protocol

from workers.channels.events import Event, Message


class Monitor(Protocol):
    """Takes a run's events in. One that fails raises OSError; it is then left out, and the run goes on."""

    def start(self) -> None:
        """Called once, before the first event."""

    def take(self, event: Event) -> None:
        """Take one event in. Called from one thread, in order of arrival."""

    def flush(self, *, force: bool = False) -> None:
        """Keep what was taken in, if it is time to, or where `force`d."""

    def stop(self) -> None:
        """Called once, after the last event, also where the run ends in an error."""


class Monitors:
    """Several monitors as one. A context manager: they start and stop with its block."""

    def __init__(self, monitors: Iterable[Monitor]) -> None:
        self._monitors = list(monitors)
        self.failures: list[str] = []
        """What monitors that were left out failed of."""

    def __enter__(self) -> Monitors:
        for monitor in self._monitors:
            monitor.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for monitor in self._monitors:
            self._stop(monitor)

    @contextmanager
    def also(self, monitor: Monitor) -> Iterator[None]:
        """One monitor more for the length of a block."""
        monitor.start()
        self._monitors.append(monitor)
        try:
            yield
        finally:
            if monitor in self._monitors:
                self._monitors.remove(monitor)
                self._stop(monitor)

    def take(self, event: Event) -> None:
        """Tell all of an event."""
        for monitor in list(self._monitors):
            try:
                monitor.take(event)
            except OSError as error:
                self._leave_out(monitor, error)

    def flush(self, *, force: bool = False) -> None:
        """Have all keep what they took in, if it is time to, or where `force`d."""
        for monitor in list(self._monitors):
            try:
                monitor.flush(force=force)
            except OSError as error:
                self._leave_out(monitor, error)

    def _leave_out(self, monitor: Monitor, error: OSError) -> None:
        """A monitor is there to look at a run, and must not be what ends it."""
        self._monitors.remove(monitor)
        self.failures.append(f"{type(monitor).__name__}: {error}")
        self._stop(monitor)
        self.take(Message(text=f"{type(monitor).__name__} failed and is left out: {error}"))

    def _stop(self, monitor: Monitor) -> None:
        """An error at the end must not take the place of the one that ended the run."""
        try:
            monitor.stop()
        except OSError as error:
            self.failures.append(f"{type(monitor).__name__}: {error}")
