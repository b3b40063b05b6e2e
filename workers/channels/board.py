"""Where workers tell the driver what happens: two roads to one zero-CPU actor.

`Reporter` sends events without waiting; the board holds so many and drops older ones. `Control` sends messages that
steer the run and waits until the driver has them; none is dropped, even if the board's process dies: Ray starts it
again, and calls that had no answer are made again, so that the driver may see a message twice. Ray Train's own report
waits for its controller's poll, so it is no road for either.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import Any

import ray

from cluster.faults import drops
from workers.channels.events import Event
from workers.channels.messages import ControlMessage

_KEEP = 100_000
"""Events held while no driver drains them; older ones are dropped."""


_SENDERS = 64
"""Senders that wait at once; more wait for their turn."""


_THREADS = {"control": _SENDERS, "driver": 1, "leaving": 1}


@ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1, concurrency_groups=_THREADS)
class Board:
    """Collects what all workers of a run tell, in order of arrival. A flood of events does not hold up messages: those
    are taken in by threads of their own."""

    def __init__(self) -> None:
        self._events: deque[Event] = deque(maxlen=_KEEP)
        self._messages: deque[ControlMessage] = deque()
        self._changed = threading.Condition()
        self._leaving = threading.Event()
        self._sent = self._given = self._taken = 0
        """Messages that came, were given to the driver, and are known to have reached it, as it asked again."""

    def tell(self, event: Event) -> None:
        """Take in an event."""
        self._events.append(event)

    def events(self) -> list[Event]:
        """All events since the last call."""
        return _drained(self._events)

    @ray.method(concurrency_group="control")
    def send(self, message: ControlMessage, wait: bool = True) -> None:
        """Take in a message; returns when the driver has it, if that is to be waited for."""
        with self._changed:
            self._messages.append(message)
            self._sent += 1
            mine = self._sent
            if wait:
                self._changed.wait_for(lambda: self._taken >= mine)

    @ray.method(concurrency_group="driver")
    def ask_to_leave(self) -> None:
        """Workers are to leave: those that wait for it are told so."""
        self._leaving.set()

    @ray.method(concurrency_group="leaving")
    def until_leaving(self) -> None:
        """Returns when workers are to leave. Calls queue up behind one that waits, and return with it."""
        self._leaving.wait()

    @ray.method(concurrency_group="driver")
    def messages(self) -> list[ControlMessage]:
        """All messages since the last call, which has reached who calls."""
        with self._changed:
            self._taken = self._given
            self._given = self._sent
            self._changed.notify_all()
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
        """Send a message, and wait until the driver has it."""
        if self._board is not None:
            ray.get(self._board.send.remote(message))

    def note(self, message: ControlMessage) -> None:
        """Send one that is sent often and that a run can do without, and wait until the board has it."""
        if self._board is not None:
            ray.get(self._board.send.remote(message, wait=False))


class Orders:
    """What a run's driver asks of workers."""

    def __init__(self, board: str) -> None:
        found = _found(board)
        self._leaving = None if found is None else found.until_leaving.remote()

    def leave(self) -> bool:
        """Whether this worker is to leave, as far as is known by now. A board that is gone asks for nothing."""
        if self._leaving is None or not ray.wait([self._leaving], timeout=0)[0]:
            return False
        try:
            ray.get(self._leaving)
        except ray.exceptions.RayError:
            self._leaving = None
            return False
        return True


def _found(board: str) -> Any:
    try:
        return ray.get_actor(board) if board else None
    except ValueError:  # the driver that made it is gone
        return None
