"""Rows spread evenly over a source whose length is known only at its end: which are read, and how many there are."""

from __future__ import annotations

from typing import Any

SKIPPED: Any = object()
"""In place of a row that is counted and not read."""

_GOLDEN = 0x9E3779B97F4A7C15
"""2^64 over the golden ratio. Multiples of it, modulo 2^64, are spread evenly, and so are those of every k-th row: rows
that repeat a pattern (domains in turn) are sampled in their shares, where every k-th row would see one of them."""
_TURN = 1 << 64


class EvenSample:
    """Chooses rows by their number alone, in one pass: those below a limit that is halved whenever more than `most` are
    kept. In the end about half of `most` to all of it are, or all of a source that has no more."""

    def __init__(self, most: int | None = None) -> None:
        """`most`: None chooses every row."""
        self.most = most
        self._rows = 0
        self._kept: list[tuple[int, Any]] = []
        self._limit = _TURN

    @property
    def kept(self) -> list[Any]:
        """The rows that were kept, in order."""
        return [row for _, row in self._kept]

    def expect(self, rows: int) -> None:
        """How many rows there will be, where that is known before the first."""
        while self.most is not None and rows * self._limit > self.most * _TURN:
            self._limit >>= 1

    def wants(self) -> bool:
        """Whether the next row is to be read. To be called once for each row, in order."""
        self._rows += 1
        return _place(self._rows - 1) < self._limit

    def skips(self, rows: int) -> bool:
        """Whether none of the next so many rows is to be read; if so, they are counted, and `wants` is not called for
        them."""
        if self._limit == _TURN or any(_place(self._rows + i) < self._limit for i in range(rows)):
            return False
        self._rows += rows
        return True

    def keep(self, number: int, row: Any) -> None:
        """Keep a row that was wanted, by its number from 0 in the source. One that was wanted before the limit was
        halved is let go."""
        if _place(number) < self._limit:
            self._kept.append((_place(number), row))
        if self.most is not None and len(self._kept) > self.most:
            self._limit >>= 1
            self._kept = [(place, kept) for place, kept in self._kept if place < self._limit]


def _place(row: int) -> int:
    return row * _GOLDEN % _TURN
