"""The files of a checkpoint: of each rank one with its slices, of which any rank of any number reads what it needs.

`part-00003.safetensors` holds the slices of rank 3, end to end: float32 masters of all its parameters, then their first
moments, then their second; its metadata say where in its parameter a slice begins. `part-00003.json` is the header of
that file once more. It is made when the file is whole, so that it is the mark of that too, and a loading reads small
files alone to know where everything lies.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from cluster.storage import Storage
from workers.student.checkpoints.slices import KINDS, Slice

_WIDTH = 4
"""Bytes of a number: all are float32."""

_BLOCK_BYTES, _READERS = 32 << 20, 8
"""Of one request at most, and requests at a time: together the memory that a loading takes beside the state itself. A
connection to S3 carries some 50 to 100 MB/s, so that a rank needs several."""


def part_name(rank: int) -> str:
    """The file of a rank's slices, in the checkpoint's folder."""
    return f"part-{rank:05d}.safetensors"


def mark_name(rank: int) -> str:
    """The mark that it is whole, which says what is where in it."""
    return f"part-{rank:05d}.json"


def write_part(slices: Sequence[Slice], path: Path) -> bytes:
    """Write a rank's slices as a safetensors file, one at a time through host memory; returns its header."""
    header: dict[str, object] = {"__metadata__": {s.name: str(s.begin) for s in slices}}
    end = 0
    for kind, s in _in_order(slices):
        begin, end = end, end + _WIDTH * s.tensors[kind].numel()
        about = {"dtype": "F32", "shape": [s.tensors[kind].numel()], "data_offsets": [begin, end]}
        header[f"{kind}.{s.name}"] = about
    written = json.dumps(header).encode()
    written += b" " * (-len(written) % 8)  # so that numbers lie where a reader may map them
    with path.open("wb") as file:
        file.write(len(written).to_bytes(8, "little") + written)
        for kind, s in _in_order(slices):
            file.write(s.tensors[kind].cpu().numpy().data)
    return written


def read_slices(storage: Storage, folder: str, headers: Sequence[bytes], slices: Sequence[Slice]) -> None:
    """Fill slices from the checkpoint in a folder, whoever wrote it: no byte is read twice, and none that no slice
    needs. `headers` are those of all its parts, in order.

    Raises OSError if a file ends too early, or if the parts have not all numbers of a slice.
    """
    stored = _stored(folder, headers)
    pieces = [p for s in slices for kind in KINDS for p in _pieces(stored[f"{kind}.{s.name}"], s, kind, storage)]
    with ThreadPoolExecutor(_READERS, thread_name_prefix="checkpoint") as pool:
        for _ in pool.map(lambda run: _read(storage, run), _runs(pieces)):
            pass


class _Range(NamedTuple):
    """Numbers begin ... end - 1 of a parameter, in a file from a byte on."""

    begin: int
    end: int
    key: str
    byte: int


class _Piece(NamedTuple):
    """Bytes of a file, and the numbers that they become."""

    key: str
    byte: int
    into: Tensor

    @property
    def end(self) -> int:
        return self.byte + _WIDTH * self.into.numel()


def _in_order(slices: Sequence[Slice]) -> Iterator[tuple[str, Slice]]:
    """As they lie in a file."""
    return ((kind, s) for kind in KINDS for s in slices)


def _stored(folder: str, headers: Sequence[bytes]) -> Mapping[str, list[_Range]]:
    """Where the numbers of a kind and parameter lie, in order."""
    found: defaultdict[str, list[_Range]] = defaultdict(list)
    for rank, header in enumerate(headers):
        about = json.loads(header)
        begins = about.pop("__metadata__")
        for name, tensor in about.items():
            begin = int(begins[name.split(".", 1)[1]])
            byte = 8 + len(header) + tensor["data_offsets"][0]
            found[name].append(_Range(begin, begin + tensor["shape"][0], f"{folder}/{part_name(rank)}", byte))
    return defaultdict(list, {name: sorted(ranges) for name, ranges in found.items()})


def _pieces(ranges: Iterable[_Range], s: Slice, kind: str, storage: Storage) -> Iterator[_Piece]:
    """What of a slice is in which file, in blocks."""
    at, last = s.begin, s.begin + s.tensors[kind].numel()
    for stored in ranges:
        if stored.begin <= at < min(last, stored.end):
            count = min(last, stored.end) - at
            byte = stored.byte + _WIDTH * (at - stored.begin)
            for into in s.tensors[kind].narrow(0, at - s.begin, count).split(_BLOCK_BYTES // _WIDTH):
                yield _Piece(stored.key, byte, into)
                byte += _WIDTH * into.numel()
            at += count
    if at < last:
        raise OSError(f"{storage.uri}: a checkpoint lacks the numbers {at} to {last - 1} of {kind}.{s.name}")


def _runs(pieces: Iterable[_Piece]) -> Iterator[list[_Piece]]:
    """Pieces that touch in their file, together up to a block."""
    run: list[_Piece] = []
    for piece in sorted(pieces, key=lambda p: (p.key, p.byte)):
        touches = run and (run[-1].key, run[-1].end) == (piece.key, piece.byte)
        if run and not (touches and piece.end - run[0].byte <= _BLOCK_BYTES):
            yield run
            run = []
        run.append(piece)
    if run:
        yield run


def _read(storage: Storage, run: list[_Piece]) -> None:
    first, length = run[0], run[-1].end - run[0].byte
    data = bytearray(storage.read_range(first.key, first.byte, length))
    if len(data) != length:
        raise OSError(f"{storage.uri}/{first.key}: {len(data)} bytes at {first.byte} where {length} were")
    for piece in run:
        count, offset = piece.into.numel(), piece.byte - first.byte
        piece.into.copy_(torch.frombuffer(data, dtype=torch.float32, count=count, offset=offset))
