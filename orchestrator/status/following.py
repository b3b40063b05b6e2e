"""Reading what a run tells, each segment of its log once: what is there, and then what is new."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from cluster.storage import Storage
from orchestrator.runs.events import events_of
from workers.channels.events import Event
from workers.layout import EVENTS, EventsLayout

_AT_ONCE = 16
"""Segments that are asked for, and held, at once."""

_AHEAD = 4
"""Segments behind the last one that are looked for. They are numbered without gaps; one that was lost is passed over
when a later one is there."""


class EventLog:
    """The events of a run. Its place is the number of an attempt, and of the next segment of it."""

    def __init__(self, storage: Storage, skipped: Callable[[str], None] = lambda why: None) -> None:
        """`skipped` is told of segments that cannot be read."""
        self._storage, self._skipped = storage, skipped
        self._attempt = self._next = 0
        self._listed = False

    def new(self, attempt: int) -> Iterator[Event]:
        """The events since the last call, in order; `attempt` is the last one that was begun. The first call lists the
        log, later ones ask for a few keys."""
        if not self._listed:
            self._listed = True
            keys = [file.key for file in self._storage.listing(EVENTS) if file.key.endswith(".jsonl")]
            for i in range(0, len(keys), _AT_ONCE):
                yield from self._read(keys[i : i + _AT_ONCE])
            numbers = [found for key in keys if (found := EventsLayout.segment_of(key)) is not None]
            self._attempt, last = max(numbers, default=(1, -1))
            self._next = last + 1
        while True:
            yield from self._rest_of_attempt()
            if self._attempt >= attempt:
                return
            self._attempt, self._next = self._attempt + 1, 0

    def _rest_of_attempt(self) -> Iterator[Event]:
        layout = EventsLayout(self._attempt)
        while True:
            keys = [layout.segment(self._next + i) for i in range(_AHEAD)]
            data = self._storage.read_many(keys)
            if not any(data):
                return
            self._next += max(i for i, one in enumerate(data) if one is not None) + 1
            yield from self._events(keys, data)

    def _read(self, keys: Sequence[str]) -> Iterator[Event]:
        yield from self._events(keys, self._storage.read_many(keys))

    def _events(self, keys: Sequence[str], data: Sequence[bytes | None]) -> Iterator[Event]:
        for key, one in zip(keys, data, strict=True):
            if one is not None:
                yield from events_of(key, one, self._skipped)
