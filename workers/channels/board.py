"""Where workers tell the driver what happens: two roads to one zero-CPU actor.

`Reporter` sends events without waiting; the board holds so many and drops older ones. `Control` sends messages that
steer the run and waits until they have arrived; none is dropped. Ray Train's own report waits for its controller's
poll, so it is no road for either.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import ray

from cluster.faults import drops
from workers.channels.events import Event
from workers.channels.messages import ControlMessage

_KEEP = 100_000
"""Events held while no driver drains them; older ones are dropped."""


@ray.remote(num_cpus=0, max_restarts=0, concurrency_groups={"control": 1})
class Board:
    """Collects what all workers of a run tell, in order of arrival. A flood of events does not hold up messages: those
    are taken in by a thread of their own."""

    def __init__(self) -> None:
        self._events: deque[Event] = deque(maxlen=_KEEP)
        self._messages: deque[ControlMessage] = deque()

    def tell(self, event: Event) -> None:
        """Take in an event."""
        self._events.append(event)

    def events(self) -> list[Event]:
        """All events since the last call."""
        return _drained(self._events)

    @ray.method(concurrency_group="control")
    def send(self, message: ControlMessage) -> None:
        """Take in a message."""
        self._messages.append(message)

    @ray.method(concurrency_group="control")
    def messages(self) -> list[ControlMessage]:
        """All messages since the last call."""
        return _drained(self._messages)


def _drained(held: deque[Any]) -> list[Any]:
    return [held.popleft() for _ in range(len(held))]


class Reporter:
    """Tells a run's board of events, without waiting. Silent where there is no board."""

    def __init__(self, board: str) -> None:
        self._board = None if drops("events") else _found(board)

    def __call__(self, event: Event) -> None:
        if self._board is not None:
            self._board.tell.remote(event)


class Control:
    """Sends messages to a run's driver. Silent where there is no board."""

    def __init__(self, board: str) -> None:
        self._board = _found(board)

    def __call__(self, message: ControlMessage) -> None:
        """Send a message, and wait until it has arrived."""
        if self._board is not None:
            ray.get(self._board.send.remote(message))


def _found(board: str) -> Any:
    try:
        return ray.get_actor(board) if board else None
    except ValueError:  # the driver that made it is gone
        return None
