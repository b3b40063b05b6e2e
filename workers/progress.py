"""How workers tell the run what they do: small events to one zero-CPU actor, which the driver drains.

Ray Train's own report waits for its controller's poll, so it is no road for per-step news.
"""

from __future__ import annotations

import time
from typing import Any

import ray

_KEEP = 100_000
"""Events held while no driver drains them; older ones are dropped (the log of units and checkpoints is the truth)."""


@ray.remote(num_cpus=0, max_restarts=0)
class ProgressBoard:
    """Collects events of all workers of a run, in order of arrival."""

    def __init__(self) -> None:
        self._events: list[dict[str, Any]] = []

    def push(self, events: list[dict[str, Any]]) -> None:
        self._events = (self._events + events)[-_KEEP:]

    def drain(self) -> list[dict[str, Any]]:
        """All events since the last call."""
        events, self._events = self._events, []
        return events


class Reporter:
    """Sends events {kind, time, ...} to a run's board without waiting. Silent where there is no board."""

    def __init__(self, board: str, **always: Any) -> None:
        try:
            self._board = ray.get_actor(board) if board else None
        except ValueError:
            self._board = None
        self._always = always

    def __call__(self, kind: str, **fields: Any) -> None:
        if self._board is not None:
            self._board.push.remote([{"kind": kind, "time": time.time(), **self._always, **fields}])

    def at_last(self, kind: str, **fields: Any) -> None:
        """Send an event and wait until it has arrived: the last one of a process that is about to end."""
        if self._board is not None:
            event = {"kind": kind, "time": time.time(), **self._always, **fields}
            ray.get(self._board.push.remote([event]))
