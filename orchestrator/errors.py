"""How a run ends that was asked for rightly and still failed."""

from __future__ import annotations


class RunFailed(RuntimeError):
    """The work ended in an error; the message is its first cause, as one line. The command exits with 1."""


def first_cause(error: BaseException) -> str:
    """The innermost cause of a chain of remote errors, as one line."""
    while (inner := getattr(error, "cause", None) or error.__cause__) is not None and inner is not error:
        error = inner
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[-1].strip() if lines else 'no message'}"
