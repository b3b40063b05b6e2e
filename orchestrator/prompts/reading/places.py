"""Rows from places spread evenly over files that are too large to be read for a look: how many there are is exact where
footers say it (Parquet), else reckoned from the bytes of those that were read."""

from __future__ import annotations

import io
import itertools
from dataclasses import dataclass, field, replace
from typing import Any, BinaryIO

from orchestrator.prompts.reading.files import DataFile, Row, rows_of
from orchestrator.prompts.reading.sample import EvenSample
from orchestrator.prompts.reading.tables import LinesOf, json_lines, parquet_run

LARGE_BYTES = 16 << 20
"""From so many bytes on a source is large."""
COUNTED_BYTES = 8 << 20
"""Bytes at the beginning of a file of which rows are counted that can only be read from there: it is read in pieces of
up to a megabyte."""
PLACES = 32
"""Places at which rows are read."""


@dataclass
class PlacedRows:
    """Rows of a large source."""

    rows: int = 0
    """How many it has."""
    exact: bool = True
    """Whether that was counted."""
    read: list[Row] = field(default_factory=list)
    """Those that were read; their number is -1 where it is not known."""


def rows_at_places(files: list[DataFile], most: int, *, named: bool) -> PlacedRows | None:
    """About `most` rows of files, or None where they are not large. Raises ValueError for a file that is damaged."""
    sizes = [file.size() for file in files]
    total = sum(sizes)
    if total < LARGE_BYTES:
        return None
    found, of_read, bytes_read = PlacedRows(), 0, 0
    for file, size, shares in zip(files, sizes, _shares_by_file(sizes), strict=True):
        if not shares:
            continue
        rows, count, exact = _of_file(file, size, shares, -(-most // PLACES), file.name if named else "")
        found.read += rows
        found.exact &= exact
        of_read, bytes_read = of_read + count, bytes_read + size
    found.exact &= bytes_read == total
    found.rows = max(round(of_read * total / bytes_read), len(found.read))
    return found


def _shares_by_file(sizes: list[int]) -> list[list[float]]:
    """For each file where in it there is a place, as a share of its size."""
    total, begin, shares = sum(sizes), 0, []
    for size in sizes:
        offsets = (n * total / PLACES - begin for n in range(PLACES))
        shares.append([offset / size for offset in offsets if 0 <= offset < size])
        begin += size
    return shares


def _of_file(file: DataFile, size: int, shares: list[float], each: int, name: str) -> tuple[list[Row], int, bool]:
    """Rows of a file, how many it has, and whether that is exact."""
    by = file.parts_by
    if by is None:
        return _from_beginning(file, size, each * len(shares), name)
    try:
        with file.open() as opened:
            if by == "groups":
                count, values = parquet_run(opened, shares, each)
                return [Row(value, name, number) for number, value in values], count, True
            return _lines(opened, size, shares, each, name)
    except (OSError, ValueError) as error:
        raise ValueError(f"{file.name!r}: {error}") from None


def _lines(file: BinaryIO, size: int, shares: list[float], each: int, name: str) -> tuple[list[Row], int, bool]:
    rows: list[Row] = []
    taken, end = 0, 0
    for share in shares:
        lines = LinesOf(file, max(round(share * size), end), None)
        begin = lines.place
        for number, value in enumerate(itertools.islice(json_lines(lines, EvenSample()), each)):
            rows.append(Row(value, name, number if begin == 0 else -1))
        taken, end = taken + lines.place - begin, lines.place
    return rows, round(len(rows) * size / max(taken, 1)), False


def _from_beginning(file: DataFile, size: int, most: int, name: str) -> tuple[list[Row], int, bool]:
    """The first rows of a file that has to be read from there, and how many it has if the others are like them."""
    meter = _Meter()
    metered = replace(file, raw=lambda: meter.of(file.raw()))
    rows, count, whole = [], 0, True
    for row in rows_of([metered], named=bool(name)):
        if count >= most and meter.bytes >= COUNTED_BYTES:
            whole = False
            break
        rows += [row] if count < most else []
        count += 1
    return rows, count if whole else round(count * size / meter.bytes), whole


class _Meter:
    """Counts the bytes that are read of a file."""

    def __init__(self) -> None:
        self.bytes = 0

    def of(self, file: BinaryIO) -> BinaryIO:
        return io.BufferedReader(_Metered(file, self), 64 << 10)


class _Metered(io.RawIOBase):
    def __init__(self, file: BinaryIO, meter: _Meter) -> None:
        self._file, self._meter = file, meter

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._file.read(len(buffer))
        buffer[: len(data)] = data
        self._meter.bytes += len(data)
        return len(data)

    def close(self) -> None:
        self._file.close()
        super().close()
