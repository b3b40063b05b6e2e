"""Rows of the kinds of files: JSON by lines or as one array, CSV, Parquet, Arrow. A broken row comes as a ValueError
in its place, so that those after it are still read; a row that a sample leaves out as SKIPPED."""

from __future__ import annotations

import bisect
import codecs
import csv
import io
import itertools
import json
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any, BinaryIO

from orchestrator.prompts.reading.sample import SKIPPED, EvenSample

_CHUNK = 1 << 20
"""Characters of an array that are read at once."""

_BATCH = 1024

_PEEK = 4096
"""Bytes at the beginning of a file by which it is told what it is."""

_SPACE = re.compile(r"[\s,]*")

Part = tuple[int, int | None]
"""Of a file: from which byte (JSON lines) or row group (Parquet) to which; None is its end."""

WHOLE: Part = (0, None)

_LONGEST_LITERAL = 16
"""Characters at the end of a part in which a literal or an escape may be cut."""


def json_rows(file: BinaryIO, sample: EvenSample, part: Part = WHOLE) -> Iterator[Any]:
    """Values of a file of JSON lines, or the elements of one array, over several lines or on one. Of a part, those of
    the lines that begin in it; an array is never parted.

    Raises ValueError for an array that breaks off: what follows would be lost.
    """
    if part != WHOLE:
        lines: Any = LinesOf(file, *part)
        yield from json_lines(lines, sample) if part[0] else json_rows(lines, sample)
        return
    first = file.readline(_CHUNK).removeprefix(codecs.BOM_UTF8)
    while first.isspace():
        first = file.readline(_CHUNK)
    if first.lstrip().startswith(b"["):
        value = _value(first)
        if not isinstance(value, list):
            yield from _chosen(_array(first, file), sample)
            return
        yield from _chosen(value if all(isinstance(row, dict) for row in value) else [value], sample)
        first = b""
    if first and not first.endswith(b"\n"):
        first += file.readline()
    second = file.readline()
    if first.strip() == b"{" and second.lstrip().startswith(b'"'):
        raise ValueError("holds one JSON object over several lines; give rows: one object a line, or one array")
    yield from json_lines(itertools.chain([first, second], file), sample)


class LinesOf:
    """The lines of a file that begin in a part of it, as a file has them."""

    def __init__(self, file: BinaryIO, begin: int, end: int | None) -> None:
        self._file, self.place, self._end = file, begin, end
        file.seek(max(begin - 1, 0))
        if begin:
            self.place = begin - 1 + len(file.readline())  # the rest of the line before

    def readline(self, limit: int = -1) -> bytes:
        if self._end is not None and self.place >= self._end:
            return b""
        line = self._file.readline(limit)
        self.place += len(line)
        return line

    def read(self, size: int = -1) -> bytes:
        return self._file.read(size)

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.readline, b"")


def holds_lines(file: BinaryIO) -> bool:
    """Whether a file of JSON is one of lines, by its beginning; else it is one array, or blank so far."""
    return file.read(_PEEK).removeprefix(codecs.BOM_UTF8).lstrip()[:1] not in (b"", b"[")


def json_lines(lines: Iterable[bytes], sample: EvenSample) -> Iterator[Any]:
    """The values of JSON lines, without those that are blank; SKIPPED for those that a sample leaves out."""
    for line in lines:
        if not line.isspace() and line:
            yield _value(line) if sample.wants() else SKIPPED


def csv_rows(file: BinaryIO, sample: EvenSample, part: Part = WHOLE) -> Iterator[Any]:
    """Rows of a CSV file with a header, as text; an empty field is null. Bytes that are not UTF-8 reject their row."""
    csv.field_size_limit(sys.maxsize)
    text = io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline="")
    rows = csv.reader(text)
    header = next(rows, [])
    if len(set(header)) < len(header):
        raise ValueError(f"its header names a column twice: {', '.join(header)}")
    while True:
        try:
            fields = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            yield ValueError(f"is not CSV: {error}") if sample.wants() else SKIPPED
            continue
        if fields:
            yield _csv_row(header, fields) if sample.wants() else SKIPPED


def parquet_rows(file: BinaryIO, sample: EvenSample, part: Part = WHOLE) -> Iterator[Any]:
    """Rows of a Parquet file, or of some of its row groups; nulls within values are left out, as columns of objects are
    full of them. A row group of which no row is wanted is not decoded."""
    import pyarrow as pa
    import pyarrow.parquet as pq  # half a second that a JSONL run need not spend

    try:
        parquet = pq.ParquetFile(file)
        for group in range(parquet.num_row_groups)[slice(*part)]:
            rows = parquet.metadata.row_group(group).num_rows
            if sample.skips(rows):
                yield from itertools.repeat(SKIPPED, rows)
                continue
            for batch in parquet.iter_batches(_BATCH, row_groups=[group], use_threads=False):
                yield from _rows_of_batch(batch, sample)
    except pa.ArrowException as error:
        raise ValueError(f"is not a whole Parquet file ({_first_line(error)})") from None


def parquet_groups(file: BinaryIO) -> list[int]:
    """Rows of each row group of a Parquet file, by its footer; none of one that is broken, of which reading it
    tells."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        footer = pq.read_metadata(file)
    except pa.ArrowException:
        return []
    return [footer.row_group(group).num_rows for group in range(footer.num_row_groups)]


def parquet_run(file: BinaryIO, shares: list[float], each: int) -> tuple[int, list[tuple[int, Any]]]:
    """How many rows a Parquet file has, and `each` rows at some places of it, given as shares of all rows: with their
    numbers. At a place the first rows of its row group are taken."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        parquet = pq.ParquetFile(file, buffer_size=_CHUNK, pre_buffer=False)
        ends = list(itertools.accumulate(parquet_groups(file)))
        total = ends[-1] if ends else 0
        places = Counter(bisect.bisect_right(ends, int(share * total)) for share in shares if total)
        rows: list[tuple[int, Any]] = []
        for group, times in sorted(places.items()):
            begin = ends[group - 1] if group else 0
            wanted = min(each * times, ends[group] - begin)
            batch = next(parquet.iter_batches(wanted, row_groups=[group], use_threads=False))
            rows += zip(itertools.count(begin), map(without_nulls, batch.to_pylist()), strict=False)
    except pa.ArrowException as error:
        raise ValueError(f"is not a whole Parquet file ({_first_line(error)})") from None
    return total, rows


def arrow_rows(file: BinaryIO, sample: EvenSample, part: Part = WHOLE) -> Iterator[Any]:
    """Rows of an Arrow stream, such as `datasets` saves."""
    import pyarrow as pa

    try:
        with pa.ipc.open_stream(file) as stream:
            for batch in stream:
                for start in range(0, batch.num_rows, _BATCH):
                    yield from _rows_of_batch(batch.slice(start, _BATCH), sample)
    except pa.ArrowException as error:
        raise ValueError(f"is not a whole Arrow file ({_first_line(error)})") from None


def saved_dataset(names: list[str], open_file: Callable[[str], BinaryIO], split: str) -> list[str]:
    """Names of the Arrow files of a dataset that `save_to_disk` left, in order; none where there is none.

    Raises ValueError for a split that it does not have.
    """
    if "dataset_dict.json" in names:
        splits = _read_json(open_file, "dataset_dict.json").get("splits") or []
        if split not in splits:
            raise ValueError(f"the saved dataset has no split {split!r}, but {', '.join(splits)}; set dataset_split")
        below = [name.removeprefix(f"{split}/") for name in names if name.startswith(f"{split}/")]
        return [f"{split}/{n}" for n in saved_dataset(below, lambda name: open_file(f"{split}/{name}"), split)]
    if "state.json" not in names or "dataset_info.json" not in names:
        return []
    state = _read_json(open_file, "state.json")
    return [str(item["filename"]) for item in state.get("_data_files") or []]


def without_nulls(value: Any) -> Any:
    """A row without the nulls that a table fills into objects with unlike keys; its own columns keep theirs."""
    return {k: _pruned(v) for k, v in value.items()} if isinstance(value, dict) else value


def _chosen(rows: Iterable[Any], sample: EvenSample) -> Iterator[Any]:
    return (row if sample.wants() else SKIPPED for row in rows)


def _rows_of_batch(batch: Any, sample: EvenSample) -> Iterator[Any]:
    """Rows of an Arrow batch; only those that are wanted become Python objects."""
    wanted = [i for i in range(batch.num_rows) if sample.wants()]
    if len(wanted) == batch.num_rows:
        yield from map(without_nulls, batch.to_pylist())
        return
    rows = dict(zip(wanted, batch.take(wanted).to_pylist() if wanted else [], strict=True))
    yield from (without_nulls(rows[i]) if i in rows else SKIPPED for i in range(batch.num_rows))


def _pruned(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _pruned(v) for k, v in value.items() if v is not None}
    return [_pruned(v) for v in value] if isinstance(value, list) else value


def _value(line: bytes) -> Any:
    try:
        return json.loads(line.decode())
    except UnicodeDecodeError:
        return ValueError("is not UTF-8")
    except (ValueError, RecursionError):
        return ValueError("is not JSON")


def _array(first: bytes, file: BinaryIO) -> Iterator[Any]:
    """The elements of one JSON array, a part of the file at a time."""
    decoder, text = json.JSONDecoder(), codecs.getincrementaldecoder("utf-8")()
    buffer, place, size, count = text.decode(first).lstrip()[1:], 0, _CHUNK, 0
    while True:
        place = _SPACE.match(buffer, place).end()  # type: ignore[union-attr]
        if buffer.startswith("]", place):
            return
        value, end = _element(decoder, buffer, place, count)
        if end is None or end == len(buffer):  # it may go on in the next part
            data = file.read(size)
            if not data:
                raise ValueError(f"its array breaks off after element {count}; fetch it again")
            buffer, place, size = buffer[place:] + text.decode(data), 0, size * 2
            continue
        yield value
        count, size, place = count + 1, _CHUNK, end


def _element(decoder: json.JSONDecoder, buffer: str, place: int, count: int) -> tuple[Any, int | None]:
    """The element of an array at a place and where it ends; None where the buffer ends before it does."""
    try:
        return decoder.raw_decode(buffer, place)
    except json.JSONDecodeError as error:
        if error.pos < len(buffer) - _LONGEST_LITERAL and not error.msg.startswith("Unterminated string"):
            raise ValueError(f"its array is not JSON at element {count + 1} ({error.msg})") from None
        return None, None


def _csv_row(header: list[str], fields: list[str]) -> Any:
    if len(fields) != len(header):
        return ValueError(f"has {len(fields)} fields, and the header {len(header)}")
    try:
        "".join(fields).encode()
    except UnicodeEncodeError:
        return ValueError("is not UTF-8")
    return {name: value or None for name, value in zip(header, fields, strict=True)}


def _read_json(open_file: Callable[[str], BinaryIO], name: str) -> dict[str, Any]:
    with open_file(name) as file:
        value = _value(file.read())
    if not isinstance(value, dict):
        raise ValueError(f"{name!r} of the saved dataset is not a JSON object")
    return value


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0]
