"""How a run ends that was asked for rightly and still failed."""

from __future__ import annotations

import re

_CAUSED = "\nThe above exception was the direct cause of the following exception:"
"""Ray Data wraps what a replica raises and drops the cause, which is then only in the traceback's text, before this."""


class RunFailed(RuntimeError):
    """The work ended in an error; the message is its first cause, as one line. The command exits with 1."""


def first_cause(error: BaseException) -> str:
    """The innermost cause of a chain of remote errors, as one line."""
    told, caused, _ = str(error).partition(_CAUSED)
    while not caused and (inner := getattr(error, "cause", None) or error.__cause__) is not None and inner is not error:
        error = inner
        told, caused, _ = str(error).partition(_CAUSED)
    lines = [line.strip() for line in told.splitlines() if line.strip()]
    if caused and lines:
        return re.sub(r"^[\w.]*\.(\w+:)", r"\1", lines[-1])
    return f"{type(error).__name__}: {lines[-1] if lines else 'no message'}"
