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
        self.stopped: Stopped | None = None
        """What was raised for a signal that ends the work at once."""
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
            self.stopped = Stopped(signal.Signals(number))
            raise self.stopped
        self.asked = signal.Signals(number)


@contextmanager
def interrupts() -> Iterator[Interrupts]:
    """Signals of this process, for the length of a block; none reaches a thread that is not the main one.

    Raises Stopped for one that ended the block, whatever a library made of it.
    """
    found = Interrupts()
    if threading.current_thread() is not threading.main_thread():
        yield found
        return
    before = {number: signal.signal(number, found.take) for number in _SIGNALS}
    try:
        yield found
    except BaseException as error:
        # Ray runs handlers inside its compiled code, out of which comes a SystemError instead.
        if found.stopped is not None and error is not found.stopped:
            raise found.stopped from None
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
