"""How far a fetch is, in words, and to whom it is said."""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Callable
from threading import Lock

import humanize

SAY_S = 30.0
"""Seconds between two lines about one fetch: it may take an hour, and a log must bear that of every node."""

Say = Callable[[str], None]


def _to_log(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


_said_by: list[Say] = [_to_log]


def tell_through(say: Say) -> None:
    """From now on, what this process says of fetches goes there, instead of to its log."""
    _said_by[0] = say


def say(text: str) -> None:
    """Tell a person, with the name of this machine, how a fetch goes."""
    _said_by[0](f"{socket.gethostname()}: {text}")


def size_text(count: float) -> str:
    """Bytes in words."""
    return humanize.naturalsize(count, format="%.1f")


class Progress:
    """Counts the bytes of one fetch of `total`; says a line at its start, every SAY_S, and at its end."""

    def __init__(self, what: str, total: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._what, self._total, self._clock = what, total, clock
        self._done, self._lock = 0, Lock()
        self._began = self._said = clock()
        say(f"fetching {what}, {size_text(total)}")

    def add(self, count: int) -> None:
        """So many bytes more; from any thread."""
        with self._lock:
            self._done += count

    def reached(self, count: int) -> None:
        """So many bytes in all."""
        with self._lock:
            self._done = max(self._done, count)

    def look(self) -> None:
        """Say how far it is, if that was not said for a while."""
        now = self._clock()
        if now - self._said < SAY_S:
            return
        self._said = now
        rate = self._done / max(now - self._began, 1e-9)
        rest = f", {humanize.naturaldelta((self._total - self._done) / rate)} left" if rate else ""
        say(f"fetching {self._what}: {size_text(self._done)} of {size_text(self._total)}, {size_text(rate)}/s{rest}")

    def end(self) -> None:
        """Say that it is whole."""
        took = max(self._clock() - self._began, 1e-9)
        rate = size_text(self._total / took)
        say(
            f"fetched {self._what}, {size_text(self._total)}, in {humanize.precisedelta(took, format='%.0f')}, {rate}/s"
        )
