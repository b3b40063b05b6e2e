"""A shard of a source as a piece: the token ids of its rows, which stay on storage until they are packed, and the few
numbers of each row by which it is decided what becomes of it.

A row is Python objects for as long as its batch is tokenized; after that it is part of arrays.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cluster.storage import Storage, open_ranges
from orchestrator.config.schema import RunConfig
from orchestrator.prompts.duplicates import content_digest
from orchestrator.prompts.kinds import RowKind, answer_bytes
from orchestrator.prompts.policy import ConfigConflict, PolicyResolver, PromptPolicy
from orchestrator.prompts.sources import RawPrompt, RejectedRow
from orchestrator.prompts.splits import SAYS, id_digest
from orchestrator.prompts.tokenizing import TeacherTokenizer, TokenizedPrompt
from workers.layout import piece_key
from workers.targets.encoding.schema import shared_temperature
from workers.units import order_key

Key = TypeVar("Key", bound=Hashable)

_BATCH = 1024
"""Rows that are tokenized at once."""
_GROUP = 256
"""Rows in a row group: what a packer reads at least to get one."""

PIECE_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("file", pa.dictionary(pa.int32(), pa.string())),
        ("prompt_token_ids", pa.list_(pa.uint32())),
        ("answer_token_ids", pa.list_(pa.uint32())),
    ]
)

NUMBERS: dict[str, Any] = {
    "place": np.int32,  # among the shard's rows, as they were read
    "row": np.int64,  # in its file, from 0
    "kind": np.int32,  # which of the piece's kinds it is
    "id0": np.uint64,  # the first 16 bytes of the id's digest, in two
    "id1": np.uint64,
    "says": np.int8,  # of its split: its place in SAYS
    "answer_bytes": np.int32,
    "order": np.uint64,  # see units.order_key
    "asks0": np.uint64,  # as of the id, of what it asks
    "asks1": np.uint64,
    "prompt_tokens": np.int32,
    "answer_tokens": np.int32,  # -1 without a given answer
    "failed": np.int32,  # which of the piece's reasons rejects it; -1: none
}
"""What is known of each row, and as which type."""


@dataclass
class Piece:
    """What is known of the rows of a shard that could be read, in the order in which they lie on storage."""

    shard: int
    kinds: list[RowKind] = field(default_factory=list)
    numbers: dict[str, np.ndarray] = field(default_factory=dict)
    """By the names of NUMBERS, [rows]."""
    reasons: list[str] = field(default_factory=list)
    rejected: list[RejectedRow] = field(default_factory=list)
    """Rows that could not be read."""

    @property
    def rows(self) -> int:
        return len(self.numbers["kind"])


class PieceMaker:
    """Makes pieces of a run's rows."""

    def __init__(self, config: RunConfig, storage: Storage, tokenizers: dict[str, TeacherTokenizer]) -> None:
        self._config, self._storage, self._tokenizers = config, storage, tokenizers
        self._policies = PolicyResolver(config)
        self._ways: dict[RowKind, bytes] = {}

    def make(self, shard: int, rows: Iterable[RawPrompt | RejectedRow]) -> Piece:
        """Tokenize the rows of a shard, and write them. Raises ConfigConflict, and what reading `rows` raises."""
        piece, kinds, reasons = Piece(shard), _Numbered[RowKind](), _Numbered[str]()
        tables: list[pa.Table] = []
        numbers: list[tuple[int, ...]] = []
        readable = _readable(rows, piece.rejected)
        while batch := list(itertools.islice(readable, _BATCH)):
            tokens = self._tokenized(batch)
            tables.append(_table(batch, tokens))
            for row, made in zip(batch, tokens, strict=True):
                numbers.append((len(numbers), *self._numbers(row, made, kinds, reasons)))
        columns = zip(*numbers, strict=True) if numbers else ((),) * len(NUMBERS)
        found = {name: np.array(c, t) for (name, t), c in zip(NUMBERS.items(), columns, strict=True)}
        piece.kinds, piece.reasons = list(kinds), list(reasons)
        order = _near_in_units(piece.kinds, found)
        piece.numbers = {name: values[order] for name, values in found.items()}
        self._write(shard, tables, order)
        return piece

    def _tokenized(self, batch: Sequence[RawPrompt]) -> list[TokenizedPrompt | ValueError]:
        """Rows as their teachers read them; in place of one that cannot be asked, why."""
        found: list[TokenizedPrompt | ValueError] = [ValueError()] * len(batch)
        asked: dict[str, list[tuple[int, PromptPolicy]]] = {}
        for i, row in enumerate(batch):
            try:
                how = self._policies.of(row.source, row.domains)
                shared_temperature(self._config.targets.temperatures, row.domains)
                asked.setdefault(how.teacher, []).append((i, how))
            except ConfigConflict:
                raise
            except ValueError as error:
                found[i] = error
        for teacher, items in asked.items():
            made = self._tokenizers[teacher].prompts([(batch[i], how) for i, how in items])
            for (i, _), tokens in zip(items, made, strict=True):
                found[i] = tokens
        return [_with_unicode_id(row, tokens) for row, tokens in zip(batch, found, strict=True)]

    def _numbers(
        self, row: RawPrompt, tokens: TokenizedPrompt | ValueError, kinds: _Numbered[RowKind], reasons: _Numbered[str]
    ) -> tuple[int, ...]:
        """What is known of a row, as NUMBERS has it, behind its place."""
        kind = RowKind.of(row)
        about = (row.row, kinds.of(kind), *_halves(id_digest(row.id)), SAYS.index(row.split), answer_bytes(row))
        if isinstance(tokens, ValueError):
            return *about, 0, 0, 0, 0, -1, reasons.of(str(tokens))
        asks = _halves(self._asks(row, kind, tokens.text))
        lengths = len(tokens.prompt_token_ids), _length(tokens.answer_token_ids)
        return *about, order_key(self._config.seed, row.id), *asks, *lengths, -1

    def _asks(self, row: RawPrompt, kind: RowKind, text: str) -> bytes:
        """A digest that two rows share that ask the same."""
        if kind not in self._ways:
            domains, how = row.domains, kind.how(self._policies)
            self._ways[kind] = repr((domains, how)).encode()
        return hashlib.sha256(self._ways[kind] + b"\0" + content_digest(row, text)).digest()

    def _write(self, shard: int, tables: list[pa.Table], order: np.ndarray) -> None:
        whole = pa.concat_tables([PIECE_SCHEMA.empty_table(), *tables]).combine_chunks()
        sink = pa.BufferOutputStream()
        pq.write_table(whole.take(order), sink, row_group_size=_GROUP, compression="zstd", write_statistics=False)
        self._storage.write(piece_key(shard), sink.getvalue().to_pybytes())


class StoredPiece:
    """The rows of a piece on storage."""

    def __init__(self, storage: Storage, shard: int) -> None:
        self._file = pq.ParquetFile(open_ranges(storage, piece_key(shard)))

    def take(self, rows: np.ndarray, columns: list[str]) -> pa.Table:
        """Some rows, by where they lie, in that order; only the row groups that hold one are read."""
        wanted, place = np.unique(rows, return_inverse=True)
        groups = np.unique(wanted // _GROUP)
        table = self._file.read_row_groups(groups.tolist(), columns=columns, use_threads=False)
        inside = np.searchsorted(groups, wanted // _GROUP) * _GROUP + wanted % _GROUP
        return table.take(inside[place])


class _Numbered(dict[Key, int]):
    """Things in the order in which they were first seen, each with its number."""

    def of(self, item: Key) -> int:
        return self.setdefault(item, len(self))


def _readable(rows: Iterable[RawPrompt | RejectedRow], rejected: list[RejectedRow]) -> Iterator[RawPrompt]:
    for row in rows:
        if isinstance(row, RawPrompt):
            yield row
        else:
            rejected.append(row)


def _table(batch: Sequence[RawPrompt], tokens: Sequence[TokenizedPrompt | ValueError]) -> pa.Table:
    made = [(None, None) if isinstance(t, ValueError) else (t.prompt_token_ids, t.answer_token_ids) for t in tokens]
    columns: dict[str, Any] = {
        "id": [row.id.encode(errors="replace").decode() for row in batch],
        "file": [row.file for row in batch],
        "prompt_token_ids": [prompt for prompt, _ in made],
        "answer_token_ids": [answer for _, answer in made],
    }
    return pa.table(columns, PIECE_SCHEMA)


def _with_unicode_id(row: RawPrompt, tokens: TokenizedPrompt | ValueError) -> TokenizedPrompt | ValueError:
    try:
        row.id.encode()
    except UnicodeEncodeError:
        return ValueError("its id is not valid Unicode")
    return tokens


def _near_in_units(kinds: Sequence[RowKind], numbers: Mapping[str, np.ndarray]) -> np.ndarray:
    """The order of rows on storage: those lie near each other that will be near in units."""
    rank = np.empty(len(kinds), np.int64)
    rank[sorted(range(len(kinds)), key=lambda i: kinds[i])] = np.arange(len(kinds))
    return np.lexsort((numbers["place"], numbers["order"], rank[numbers["kind"]]))


def _halves(digest: bytes) -> tuple[int, int]:
    return int.from_bytes(digest[:8], "big"), int.from_bytes(digest[8:16], "big")


def _length(token_ids: list[int] | None) -> int:
    return -1 if token_ids is None else len(token_ids)
