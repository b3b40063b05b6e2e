"""Rows of a store with a share of older ones between them: what a student reads so that it does not forget.

Streams are mixed by deficit round-robin over target tokens, as a stream mixes its domains: the sequence is a pure
function of theirs and of the share, and where each stands is all there is to resume.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from workers.targets.reader import Cursor, TargetRow, TargetStream, batch_of

_NEW = ""
"""The name of the stream that older ones are mixed into."""


class RowStream(Protocol):
    """An endless sequence of rows that can be resumed where its cursor stands."""

    @property
    def cursor(self) -> Cursor: ...

    def next_batch(self, targets: int) -> list[TargetRow]:
        """The next rows of the sequence, until they hold at least `targets` target positions."""

    def close(self) -> None:
        """End the background's threads."""


class ReplayStream:
    """A stream of which `share` of the target tokens is of older generations', by their names, in equal parts."""

    def __init__(self, new: TargetStream, older: Mapping[str, TargetStream], share: float) -> None:
        self._streams = {_NEW: new, **older}
        self._weights = {_NEW: 1 - share, **dict.fromkeys(older, share / len(older))}
        new.cursor.replayed = {name: stream.cursor for name, stream in older.items()}

    @property
    def cursor(self) -> Cursor:
        """Where all of them stand."""
        return self._streams[_NEW].cursor

    def close(self) -> None:
        """End the background's threads."""
        for stream in self._streams.values():
            stream.close()

    def next_batch(self, targets: int) -> list[TargetRow]:
        """The next rows of the sequence, until they hold at least `targets` target positions."""
        return batch_of(self.next_row, targets)

    def next_row(self) -> TargetRow:
        """The next row of the stream that has given least for its weight; at first of the new one."""
        given = {name: stream.cursor.served / self._weights[name] for name, stream in self._streams.items()}
        return self._streams[min(given, key=lambda name: (given[name], name))].next_row()
