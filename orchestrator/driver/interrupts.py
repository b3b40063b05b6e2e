"""SIGINT and SIGTERM: the first asks a run to leave in order, the second ends it at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from orchestrator.runs.errors import Stopped

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupts:
    """What a person, or who runs the command, has asked for in this process."""

    def __init__(self) -> None:
        self.asked: signal.Signals | None = None
        """The signal that asked to leave in order."""
        self._patient = False

    @contextmanager
    def patient(self) -> Iterator[None]:
        """A block that looks at `asked` by itself. Elsewhere a signal ends what is done at once."""
        self._patient = True
        try:
            yield
        finally:
            self._patient = False

    def take(self, number: int, frame: FrameType | None = None) -> None:
        """A signal came. Raises Stopped where nobody looks, and for the second one."""
        if self.asked is not None or not self._patient:
            raise Stopped(signal.Signals(number))
        self.asked = signal.Signals(number)


@contextmanager
def interrupts() -> Iterator[Interrupts]:
    """Signals of this process, for the length of a block; none reaches a thread that is not the main one."""
    found = Interrupts()
    if threading.current_thread() is not threading.main_thread():
        yield found
        return
    before = {number: signal.signal(number, found.take) for number in _SIGNALS}
    try:
        yield found
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
