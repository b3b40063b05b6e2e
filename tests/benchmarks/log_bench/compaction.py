"""What one object with all entries would cost to make, and to open instead of the log."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable
from dataclasses import asdict

import pyarrow as pa
import pyarrow.parquet as pq

from workers.targets.commits.log import Entry, Part

_LEVEL = 3


def compactions(entries: list[Entry]) -> dict[str, dict[str, float]]:
    """Seconds to make and to open, and bytes, of entries as JSON lines with zstd and as Parquet."""
    kinds: dict[str, tuple[Callable[[list[Entry]], bytes], Callable[[bytes], list[Entry]]]] = {
        "JSON lines, zstd": (_to_lines, _from_lines),
        "Parquet, zstd": (_to_parquet, _from_parquet),
    }
    return {name: _measured(entries, make, read) for name, (make, read) in kinds.items()}


def _measured(
    entries: list[Entry], make: Callable[[list[Entry]], bytes], read: Callable[[bytes], list[Entry]]
) -> dict[str, float]:
    started = time.monotonic()
    data = make(entries)
    made = time.monotonic()
    assert read(data) == entries
    return {"bytes": len(data), "make_s": made - started, "open_s": time.monotonic() - made}


def _to_lines(entries: list[Entry]) -> bytes:
    codec = pa.Codec("zstd", compression_level=_LEVEL)
    lines = b"\n".join(e.to_bytes() for e in entries)
    return len(lines).to_bytes(8, "little") + codec.compress(lines, asbytes=True)


def _from_lines(data: bytes) -> list[Entry]:
    lines = pa.Codec("zstd").decompress(data[8:], int.from_bytes(data[:8], "little"), asbytes=True)
    return [Entry.from_bytes(line) for line in lines.split(b"\n")]


def _to_parquet(entries: list[Entry]) -> bytes:
    rows = [asdict(e) | {"rejected": json.dumps(e.rejected)} for e in entries]
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), sink, compression="zstd", compression_level=_LEVEL)
    return sink.getvalue()


def _from_parquet(data: bytes) -> list[Entry]:
    entries = []
    for row in pq.ParquetFile(io.BytesIO(data)).read().to_pylist():
        parts = tuple(Part(**p) for p in row.pop("parts"))
        entries.append(Entry(parts=parts, rejected=tuple(json.loads(row.pop("rejected"))), **row))
    return entries
