"""The next global batch, made while the device works on the present one.

One batch ahead at most, in one thread of its own, which alone uses the stream: so the sequence is what it is without.
A checkpoint has the cursor of the batch that was trained on, not of the one made ahead. What goes wrong in the thread
is raised where its batch is asked for; a unit that is waited for is told only while the device waits too.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from threading import Event
from typing import TYPE_CHECKING

from workers.targets.reader import Cursor, TargetRow
from workers.targets.replay import RowStream

if TYPE_CHECKING:
    from workers.student.batches.batching import MicroBatch

_LOOK_S = 0.25
_LONGEST_PAUSE_S = 3.0
"""Of a reader that waits for a unit, between two times that it says so."""

Share = Callable[[list[TargetRow], int], "list[MicroBatch] | None"]
"""This worker's micro-batches of the rows of a global batch, when so many tokens are behind; None: not ahead."""


@dataclass(frozen=True)
class GlobalBatch:
    """Rows that all workers together make one step of."""

    rows: list[TargetRow]
    share: list[MicroBatch] | None
    """This worker's part, where it was made ahead."""
    tokens: int
    """Target tokens behind when it is trained on."""
    cursor: Cursor
    """Where the stream stands after it."""


class _Closed(Exception):
    """Nobody wants the batch any more."""


class BatchesAhead:
    """Global batches of a stream, until `budget` target tokens are behind; none is made that would not be trained on.

    `on_wait(unit, seconds)` is called, in the thread that asks for a batch, while it waits for one that waits for a
    unit; the seconds are those that it has waited itself.
    """

    def __init__(self, batch_tokens: int, budget: int, tokens: int, on_wait: Callable[[int, float], None]) -> None:
        self._batch_tokens, self._budget, self._tokens, self._on_wait = batch_tokens, budget, tokens, on_wait
        self._stream: RowStream | None = None
        self._share: Share = lambda rows, tokens: None
        self._coming: Future[GlobalBatch] | None = None
        self._waits: tuple[int, float] | None = None
        """The unit that the thread last said it waits for, and when."""
        self._closed = Event()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="batch-ahead")

    def open(self, stream: RowStream, share: Share) -> None:
        """Take the stream, whose `on_wait` is `waiting`. It is closed with this."""
        self._stream, self._share = stream, share

    def waiting(self, unit: int, seconds: float) -> None:
        """Note that the thread waits for a unit; ends the thread's work if nobody wants it any more."""
        if self._closed.is_set():
            raise _Closed
        self._waits = (unit, time.monotonic())

    def next(self) -> GlobalBatch:
        """The next batch. Raises what its making met. To be called only while the budget is not spent."""
        assert self._tokens < self._budget
        coming = self._coming or self._pool.submit(self._make, self._tokens)
        self._coming = None
        asked = time.monotonic()
        while not wait([coming], _LOOK_S).done:
            now, waits = time.monotonic(), self._waits
            if waits is not None and now - waits[1] < _LONGEST_PAUSE_S:
                self._on_wait(waits[0], now - asked)
        batch = coming.result()
        self._tokens = batch.tokens + sum(row.targets for row in batch.rows)
        if self._tokens < self._budget:
            self._coming = self._pool.submit(self._make, self._tokens)
        return batch

    def forget_share(self) -> None:
        """Let go of what makes shares: it holds the engine."""
        self._share = lambda rows, tokens: None

    def close(self) -> None:
        """End the thread, also where it waits for a unit, and the stream."""
        self._closed.set()
        self._pool.shutdown(wait=True, cancel_futures=True)
        if self._stream is not None:
            self._stream.close()

    def _make(self, tokens: int) -> GlobalBatch:
        assert self._stream is not None
        rows = self._stream.next_batch(self._batch_tokens)
        self._waits = None
        cursor = Cursor.from_dict(self._stream.cursor.to_dict())
        return GlobalBatch(rows, self._share(rows, tokens), tokens, cursor)
