"""Reading the events that attempts at a run have left (written by monitors/jsonl.py)."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

from cluster.storage import Storage
from workers.channels.events import SCHEMA_VERSION, Event, from_lines
from workers.layout import EVENTS, EventsLayout

Place = tuple[int, int]
"""A segment: its attempt, and its number there."""


def read_events(storage: Storage, skipped: Callable[[str], None] = lambda why: None) -> Iterator[Event]:
    """The events of all attempts at a run, a segment at a time.

    Events are telemetry, so a segment that cannot be read, or is of another schema, is passed over; `skipped` is told
    which and why.
    """
    for file in storage.listing(EVENTS):
        if file.key.endswith(".jsonl"):
            try:
                data = storage.read(file.key)
            except OSError as error:
                skipped(_why(file.key, error))
                continue
            yield from events_of(file.key, data, skipped)


def events_of(key: str, data: bytes, skipped: Callable[[str], None]) -> list[Event]:
    """The events of a segment that was read; none, and `skipped` is told why, where it is not understood."""
    try:
        return _parsed(data)
    except (ValueError, KeyError, TypeError) as error:
        skipped(_why(key, error))
        return []


def _why(key: str, error: Exception) -> str:
    return f"{key}: {' '.join(str(error).split())}"


def segments_after(storage: Storage, place: Place) -> list[Place]:
    """The segments behind one, in order."""
    found = (EventsLayout.segment_of(file.key) for file in storage.listing(EVENTS))
    return sorted(one for one in found if one is not None and one > place)


def read_segment(storage: Storage, key: str) -> list[Event]:
    """The events of a segment. Raises ValueError for one that is of another schema or cannot be read."""
    return _parsed(storage.read(key))


def _parsed(data: bytes) -> list[Event]:
    header, _, lines = data.partition(b"\n")
    if (schema := json.loads(header)["schema"]) != SCHEMA_VERSION:
        raise ValueError(f"has schema {schema}, this program reads {SCHEMA_VERSION}")
    return list(from_lines(lines))
