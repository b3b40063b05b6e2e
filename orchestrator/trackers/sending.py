"""A run's events to one tracker, a segment of the log after another, from where it stood.

The log is the queue: what a tracker could not take yet lies in the run's folder, however long its server is gone, and
nothing of it is held in memory or dropped. How far it came is kept beside the log, by what it sends to: sent to
another place, a run is told from its beginning.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from cluster.storage import Storage
from orchestrator.config.trackers import MlflowConfig, TrackerConfig
from orchestrator.runs.events import Place, read_segment, segments_after
from orchestrator.trackers.group import Group, Tracker
from orchestrator.trackers.points import Meter, Point
from workers.layout import EventsLayout, tracker_key

_HASH = 8
"""Letters of hashes in names."""

_SETTINGS_OF_SENDING = {"every_s", "finish_s", "stalled_s"}


@dataclass
class Cursor:
    """How far a tracker has read a run's events."""

    group: str
    """The key of the run's group in the tracker."""
    place: Place = (0, -1)
    """The last segment that was sent."""
    sent: int = 0
    """Points."""
    meter: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> bytes:
        """The contents of its file."""
        return json.dumps({**vars(self), "place": list(self.place)}).encode()

    @staticmethod
    def from_json(data: bytes) -> Cursor:
        """The inverse of `to_json`."""
        values = json.loads(data)
        return Cursor(**{**values, "place": tuple(values["place"])})


class Sending:
    """One tracker's way through a run's events."""

    def __init__(self, storage: Storage, run: str, name: str, config: TrackerConfig) -> None:
        self._storage, self._config = storage, config
        self._key = tracker_key(name, _hash(_destination(config)))
        local = storage.local_path("")
        folder = str(local.absolute()) if local is not None else None
        try:
            self._cursor = Cursor.from_json(storage.read(self._key))
        except FileNotFoundError:
            self._cursor = Cursor(f"{run}-{_hash(folder or storage.uri)}")
        self._meter = Meter(config.every_s, self._cursor.meter)
        self.group = Group(run, self._cursor.group, folder or storage.uri, folder)

    @property
    def sent(self) -> int:
        """Points that were sent, by all attempts together."""
        return self._cursor.sent

    def behind(self) -> list[Place]:
        """The segments that are not sent yet, by a listing of all there are."""
        return segments_after(self._storage, self._cursor.place)

    def next_of(self, attempt: int) -> Place | None:
        """The next segment of an attempt, if it is there, by a look at its key alone."""
        last, number = self._cursor.place
        place = attempt, number + 1 if last == attempt else 0
        return place if self._storage.exists(EventsLayout(attempt).segment(place[1])) else None

    def send(self, place: Place, tracker: Tracker) -> None:
        """Send what a segment brings, and note that it is sent. Raises what the tracker's library raises."""
        points = [point for point in self._points(place, self._meter) if not point.passing]
        if points:
            tracker.send(points)
        self._cursor = Cursor(self._cursor.group, place, self._cursor.sent + len(points), self._meter.state)
        self._storage.write(self._key, self._cursor.to_json())

    def unsent(self) -> Counter[str]:
        """How many points are not sent yet, by student; those of the teachers under an empty name."""
        meter, count = Meter(self._config.every_s, self._cursor.meter), Counter[str]()
        for place in self.behind():
            count.update(point.student for point in self._points(place, meter) if not point.passing)
        return count

    def _points(self, place: Place, meter: Meter) -> Iterator[Point]:
        """The points of a segment; of one that cannot be read, none: events are telemetry."""
        try:
            events = read_segment(self._storage, EventsLayout(place[0]).segment(place[1]))
        except (ValueError, KeyError, TypeError):
            return
        for event in events:
            yield from meter.take(event)


def _destination(config: TrackerConfig) -> str:
    """What tells a place that points are sent to from others."""
    settings = config.model_dump(mode="json", exclude=_SETTINGS_OF_SENDING)
    if isinstance(config, MlflowConfig):
        settings["uri"] = (config.uri or os.environ.get("MLFLOW_TRACKING_URI", "")).rstrip("/")
    return json.dumps(settings, sort_keys=True)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:_HASH]
