"""What went wrong in a rank, said in a form that its leader can read without loading torch."""

from __future__ import annotations

import traceback
from types import TracebackType
from typing import Literal

from workers.teacher.engine import OutOfMemory

RankKind = Literal["memory", "peer", "error"]

_NO_MEMORY = ("out of memory", "can't allocate memory", "cannot allocate memory", "bad_alloc")
_PEER = (
    *("Connection reset by peer", "Connection closed by peer", "Connection closed by remote peer"),
    *("Broken pipe", "Timed out waiting", "Socket closed", "remote process exited", "NCCL communicator was aborted"),
)


class RankError(Exception):
    """An exception of a rank: `memory` (it did not fit), `peer` (another rank was lost or late: a symptom), `error`."""

    def __init__(self, kind: RankKind, text: str) -> None:
        super().__init__(kind, text)
        self.kind, self.text = kind, text

    @staticmethod
    def of(error: Exception) -> RankError:
        """What an exception means, with its type, its message and where it was raised."""
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        text = f"{type(error).__name__}: {lines[0] if lines else 'no message'}"
        frames = traceback.extract_tb(error.__traceback__)
        if frames:
            text += f" ({'/'.join(frames[-1].filename.split('/')[-2:])}:{frames[-1].lineno})"
        return RankError(_kind(error), text)


def _kind(error: Exception) -> RankKind:
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


class Told:
    """A block whose exceptions leave it as RankError."""

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, Exception):
            raise RankError.of(error) from None
