"""A run's events as JSON lines in its folder: segments that are written once and never again.

    events/0001/000000.jsonl    a header {schema, attempt, segment}, then one event a line

Memory and time of a save depend on what came since the last one, however long the run is. Segments come more seldom as
an attempt grows older, so that a day of it is a few thousand objects.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable

from cluster.storage import Storage
from workers.channels.events import SCHEMA_VERSION, Event, to_lines
from workers.layout import EventsLayout

_SEGMENT_S = (5.0, 60.0)
"""Seconds between two segments: at first, and at most."""

_AGE_SHARE = 0.01
"""Seconds between two segments per second that the attempt is old, between these limits."""

_SEGMENT_EVENTS = 10_000
"""Events that make a segment whatever the time."""


class JsonlMonitor:
    """Writes the events of one attempt, as long as the run is this driver's: `may_write` is asked before each
    segment."""

    def __init__(self, storage: Storage, attempt: int, may_write: Callable[[], bool] = lambda: True) -> None:
        self._storage, self._attempt, self._may_write = storage, attempt, may_write
        self._layout = EventsLayout(attempt)
        self._events: list[Event] = []
        self._segment = 0
        self._began = self._written = time.monotonic()

    def start(self) -> None:
        """Nothing to do."""

    def take(self, event: Event) -> None:
        """Hold an event until the next segment."""
        self._events.append(event)
        if len(self._events) >= _SEGMENT_EVENTS:
            self._write()

    def flush(self, *, force: bool = False) -> None:
        """Write a segment, if it is time for one."""
        (least, most), time_s = _SEGMENT_S, time.monotonic()
        if force or time_s - self._written >= min(max(least, _AGE_SHARE * (time_s - self._began)), most):
            self._write()

    def stop(self) -> None:
        """Write what is left."""
        self._write()

    def _write(self) -> None:
        if self._events and self._may_write():
            header = {"schema": SCHEMA_VERSION, "attempt": self._attempt, "segment": self._segment}
            data = json.dumps(header).encode() + b"\n" + to_lines(self._events)
            self._storage.write(self._layout.segment(self._segment), data)
            self._segment += 1
        self._events = []
        self._written = time.monotonic()
