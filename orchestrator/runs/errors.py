"""How a run ends that was asked for rightly and still failed."""

from __future__ import annotations


class RunFailed(RuntimeError):
    """The work ended in an error; the message is its first cause, as one line. The command exits with 1."""
