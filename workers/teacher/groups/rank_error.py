"""What went wrong in a rank, said in a form that its leader can read without loading torch."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from workers.failures import ErrorKind, kind_of


class RankError(Exception):
    """An exception of a rank: `memory` (it did not fit), `peer` (another rank was lost or late: a symptom), `error`."""

    def __init__(self, kind: ErrorKind, text: str) -> None:
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
        return RankError(kind_of(error), text)


@contextmanager
def reraise_as_rank_error() -> Iterator[None]:
    """A block whose exceptions leave it as RankError."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 - whatever it is crosses to the leader in one form
        raise RankError.of(error) from None
