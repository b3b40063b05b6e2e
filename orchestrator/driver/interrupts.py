"""SIGINT and SIGTERM: the first asks a run to leave in order, the second ends it at once. So does who asks through the
storage (`stillhouse stop`): this process then sends itself a SIGTERM."""

from __future__ import annotations

import os
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
        self.by = ""
        """Who asked through the storage, in words; empty: nobody did."""
        self.stopped: Stopped | None = None
        """What was raised for a signal that ends the work at once."""
        self._patient = self._at_once = self._handled = False
        self._handlers = threading.Lock()

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
        if self.asked is not None or self._at_once or not self._patient:
            self.stopped = Stopped(signal.Signals(number), self.by)
            raise self.stopped
        self.asked = signal.Signals(number)

    def request(self, by: str, *, now: bool = False) -> None:
        """Somebody asks through the storage, in words; called by any thread. What comes of it is what comes of a
        SIGTERM, with `now` of a second one. A driver that no signal reaches finds it at its next `check`."""
        with self._handlers:
            self.by, self._at_once = by, now
            if self._handled:
                os.kill(os.getpid(), signal.SIGTERM)
            else:
                self.asked = signal.SIGTERM

    def check(self) -> None:
        """Raise Stopped for what was asked, where nobody looks at it and no signal has raised it."""
        if self.asked is not None and (self._at_once or not self._patient):
            raise Stopped(self.asked, self.by)

    @contextmanager
    def handlers(self) -> Iterator[None]:
        """A block in which signals of this process come here. Only for the main thread."""
        with self._handlers:
            around = self._handled
            before = {number: signal.signal(number, self.take) for number in _SIGNALS}
            self._handled = True
        try:
            yield
        finally:
            with self._handlers:  # a request meanwhile would end the process by a signal that nobody takes
                self._handled = around
                for number, handler in before.items():
                    signal.signal(number, handler)


@contextmanager
def interrupts(found: Interrupts | None = None) -> Iterator[Interrupts]:
    """Signals of this process, for the length of a block; none reaches a thread that is not the main one. `found`: that
    of a block around this one, whose handlers others have replaced.

    Raises Stopped for one that ended the block, whatever a library made of it.
    """
    found = found or Interrupts()
    if threading.current_thread() is not threading.main_thread():
        yield found
        return
    with found.handlers():
        try:
            yield found
        except BaseException as error:
            # Ray runs handlers inside its compiled code, out of which comes a SystemError instead.
            if found.stopped is not None and error is not found.stopped:
                raise found.stopped from None
            raise
