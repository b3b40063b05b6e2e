"""How a run ends that was asked for rightly and still failed."""

from __future__ import annotations

import signal


class RunFailed(RuntimeError):
    """The work ended in an error; the message is its first cause, as one line. The command exits with 1."""


class Stopped(BaseException):
    """A signal asked for the end, or somebody through the storage, which is the same as a SIGTERM. The command exits
    with 128 and the signal's number, as shells have it.

    No KeyboardInterrupt: the CLI's library would answer that itself, whichever signal it was.
    """

    def __init__(self, signal: signal.Signals, by: str = "") -> None:
        super().__init__(signal.name)
        self.exit_code = 128 + signal
        self.by = by
        """Who asked through the storage; empty: it was a signal."""
