"""Reading the events that attempts at a run have left (written by monitors/jsonl.py)."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

from cluster.storage import Storage
from workers.channels.events import SCHEMA_VERSION, Event, from_lines
from workers.layout import EVENTS


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
                skipped(f"{file.key}: {' '.join(str(error).split())}")
                continue
            yield from read_segment(file.key, data, skipped)


def read_segment(key: str, data: bytes, skipped: Callable[[str], None]) -> list[Event]:
    """The events of a segment; none, and `skipped` is told why, where it cannot be read."""
    try:
        return _segment(data)
    except (ValueError, KeyError, TypeError) as error:
        skipped(f"{key}: {' '.join(str(error).split())}")
        return []


def _segment(data: bytes) -> list[Event]:
    header, _, lines = data.partition(b"\n")
    if (schema := json.loads(header)["schema"]) != SCHEMA_VERSION:
        raise ValueError(f"has schema {schema}, this program reads {SCHEMA_VERSION}")
    return list(from_lines(lines))
