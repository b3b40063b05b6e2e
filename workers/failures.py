"""What an error of another process means: its kind, and its first cause as one line. The one place that reads them.

Ray, torch and the libraries below them say much in words only, so most of this goes by words; a version that changes
them is caught by the tests beside it. No Ray and no torch here: a leader classifies what a rank raised without either.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

ErrorKind = Literal["memory", "peer", "error"]
"""It did not fit; another process was lost or late (a symptom); anything else."""

_NO_MEMORY = ("out of memory", "can't allocate memory", "cannot allocate memory", "bad_alloc")
_PEER = (
    *("Connection reset by peer", "Connection closed by peer", "Connection closed by remote peer"),
    *("Broken pipe", "Timed out waiting", "Socket closed", "remote process exited", "NCCL communicator was aborted"),
)
_NODE_LOW_ON_MEMORY = ("low on memory", "ran out of memory", "OutOfMemoryError")
_NODE_DIED = ("node has died", "node died")
_PAGES = (" Worker exit type:", " Some common causes")

_FULL = ("No space left on device", "Disk quota exceeded")
_MAKE_ROOM = "free some of it (`stillhouse gc RUN` lists what nobody needs), and the same command resumes"

_CAUSED = "\nThe above exception was the direct cause of the following exception:"
"""Ray Data wraps what a replica raises and drops the cause, which is then only in the traceback's text, before this."""


class OutOfMemory(Exception):
    """A batch did not fit into a process's memory; a smaller one may."""


@dataclass(frozen=True)
class Failure:
    """Why something ended, and whether another try may end otherwise."""

    cause: str
    retryable: bool


def kind_of(error: BaseException) -> ErrorKind:
    """What kind of error this is, raised in the process that had it."""
    if isinstance(error, OutOfMemory | MemoryError):
        return "memory"
    names = {c.__name__ for c in type(error).__mro__}
    if "OutOfMemoryError" in names:  # torch's, on an accelerator
        return "memory"
    if "DistError" in names:
        return "peer"
    if isinstance(error, RuntimeError | OSError):
        text = str(error)
        if any(t in text.lower() for t in _NO_MEMORY):
            return "memory"
        if any(t in text for t in _PEER):
            return "peer"
    return "error"


def death(report: str) -> tuple[Literal["memory", "dead"], str]:
    """From what Ray says of an actor that died: what kind of death it was, and how it died, in words."""
    if any(t in report for t in _NODE_LOW_ON_MEMORY):
        return "memory", "was ended as its node ran low on memory"
    if any(t in report for t in _NODE_DIED):
        return "dead", "was lost with its node"
    return "dead", "died (killed, crashed, or ended by the kernel for its memory)"


def end_of_actor(error: BaseException) -> str | None:
    """How the actor of a call that ended with `error` died, in words; None where the call itself raised it."""
    names = {c.__name__ for c in type(error).__mro__}
    if "RayTaskError" in names or "RayActorError" not in names:  # what it raised may be of both kinds
        return None
    return death(str(error))[1]


def first_failure(errors: Sequence[Exception], non_retryable: tuple[type[Exception], ...]) -> Failure | None:
    """Of what the workers of a training ended with, what the others follow from: an error of the training itself
    (`non_retryable`: it would come again), else a full disk, else a death, else any. None if there is nothing."""
    own = [Failure(last_line(_named(e)), False) for e in errors if isinstance(e, non_retryable)]
    full = [Failure(last_line(_named(e)), True) for e in errors if any(t in str(e) for t in _FULL)]
    deaths = [Failure(_death_of_worker(e), True) for e in errors if "HealthCheck" in type(e).__name__]
    others = [Failure(last_line(_named(e)), True) for e in errors]
    return next(iter([*own, *full, *deaths, *others]), None)


def first_cause(error: BaseException) -> str:
    """The innermost cause of a chain of remote errors, as one line."""
    told, caused, _ = str(error).partition(_CAUSED)
    while not caused and (inner := getattr(error, "cause", None) or error.__cause__) is not None and inner is not error:
        error = inner
        told, caused, _ = str(error).partition(_CAUSED)
    lines = _lines(told)
    if caused and lines:
        return _with_room(re.sub(r"^[\w.]*\.(\w+:)", r"\1", lines[-1]))
    return _with_room(f"{type(error).__name__}: {lines[-1] if lines else 'no message'}")


def last_line(text: str) -> str:
    """The last line of a traceback that names an error, which is what a person looks for; of memory that was not
    enough, with what to change."""
    if any(t in text for t in _NODE_LOW_ON_MEMORY[:2]):
        return (
            "OutOfMemoryError: a worker was ended because its node ran out of memory; fewer students at once, a "
            "smaller train.micro_tokens or teachers.*.score_tokens, or more memory (see `stillhouse plan`)"
        )
    if "out of memory" in text.lower():
        return (
            "OutOfMemoryError: an accelerator's memory was not enough; a smaller train.micro_tokens, "
            "train.gradient_checkpointing, a higher train.zero, or more workers"
        )
    lines = _lines(text)
    if full := [line for line in lines if any(t in line for t in _FULL)]:
        return _with_room(full[-1])
    named = [line for line in lines if "Error" in line.split(":")[0] and ":" in line and not line.startswith("File")]
    return (named or lines or ["unknown error"])[-1]


def _with_room(line: str) -> str:
    """A line, and what to do where a disk was full."""
    return f"{line}; {_MAKE_ROOM}" if any(t in line for t in _FULL) else line


def _death_of_worker(error: Exception) -> str:
    cause = last_line(str(error) or type(error).__name__)
    if cause.startswith("OutOfMemoryError"):
        return cause
    for page in _PAGES:  # of what may cause such a thing
        cause = cause.partition(page)[0]
    return f"a worker died, or its node was lost: {cause.rstrip('. ')}"


def _named(error: Exception) -> str:
    """What an error says, with the name of its class in front, as a traceback's last line has it."""
    return f"{type(error).__name__}: {error}"


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]
