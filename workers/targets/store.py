"""A target store: its header, its parts, its log. Where writers commit units and readers open them."""

from __future__ import annotations

import hashlib
import json
import uuid
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cluster.faults import pause_point
from cluster.storage import Storage, read_buffer
from workers.layout import FIRST_GENERATION, StoreLayout
from workers.targets.commits.damage import DamagedShard
from workers.targets.commits.log import Entry, Part, TargetLog
from workers.targets.encoding.arrays import UnitTargets
from workers.targets.encoding.codec import decode, decode_draw, encode, encode_draw
from workers.targets.encoding.schema import StoreHeader
from workers.targets.encoding.vocab_order import VocabOrder
from workers.targets.vocab_order_files import VocabOrderFiles

TARGETS = "targets"
"""Role of the part with a unit's texts and first draw; those with further ones are draw1, draw2, ..."""


class TargetStore:
    """One store of a run: `targets/train` or `targets/heldout`."""

    def __init__(self, storage: Storage, split: str, generation: str = FIRST_GENERATION) -> None:
        self.storage, self.split, self.generation = storage, split, generation
        self._layout = StoreLayout(split, generation)
        self.root = self._layout.root
        self.log = TargetLog(storage, self.root, generation)
        self._header: StoreHeader | None = None
        self._vocab_order: VocabOrder | None = None

    def create(self, header: StoreHeader) -> None:
        """Fix the header of a new store. Raises ValueError if the store exists with another one."""
        if not self.storage.create(self._layout.header, header.to_json().encode()):
            names = ", ".join(self.header.differences(header))
            files = (
                " (a fingerprint is that of a model's files, which are others now)" if "fingerprint" in names else ""
            )
            raise ValueError(
                f"targets: the store of this run was made with other settings: {names}{files}; "
                "use another run name, or the settings of the first run"
            )

    @property
    def header(self) -> StoreHeader:
        """The store's header. Raises FileNotFoundError before the store exists."""
        if self._header is None:
            self._header = StoreHeader.from_json(self.storage.read(self._layout.header))
        return self._header

    def write_part(self, unit: int, targets: UnitTargets) -> tuple[Part, ...]:
        """Store a unit's targets under a name of their own: readers cannot see them before `log.commit`."""
        if targets.rows == 0:
            return ()
        vocab_order, header = self._vocab_order_for(targets), self.header
        tables = {TARGETS: encode(targets, header, vocab_order)}
        for number, draw in enumerate(targets.redraws, start=1):
            tables[f"draw{number}"] = encode_draw(draw, targets.target_lengths, header, vocab_order)
        about = {"unit": unit, "temperature": targets.temperature}
        return tuple(self._write(unit, role, to_parquet(table, header, about)) for role, table in tables.items())

    def _write(self, unit: int, role: str, data: bytes) -> Part:
        key = self._layout.part(unit, uuid.uuid4().hex[:8], role)
        self.storage.write(key, data)
        pause_point("part-written")
        return Part(role, key, len(data), hashlib.sha256(data).hexdigest())

    def read_unit(self, entry: Entry, draw: int | None = None) -> UnitTargets:
        """The targets of a committed unit, with all draws or (from 0) with one of them alone.

        Raises DamagedShard naming a part whose bytes are not those committed.
        """
        if not entry.parts:
            return UnitTargets()
        file = self._read(entry, TARGETS)
        unit = decode(file.read(use_threads=False), self.header, self.vocab_order)
        unit.temperature = json.loads(file.metadata.metadata[b"stillhouse_unit"])["temperature"]
        wanted = range(1, self.header.redraws) if draw is None else [draw] if draw else []
        tables = [self._read(entry, f"draw{n}").read(use_threads=False) for n in wanted]
        unit.redraws = [decode_draw(table, self.header, self.vocab_order) for table in tables]
        return unit.with_draw(1) if draw else unit

    def read_or_mark(self, entry: Entry, by: str, then: str) -> UnitTargets:
        """A unit with its first draw, for a reader that cannot wait: damage is marked, and the error says what to do.

        `by` is who reads, `then` the command to type when the unit was recomputed.
        """
        try:
            return self.read_unit(entry, draw=0)
        except DamagedShard as damage:
            self.log.mark_damaged(damage.unit, damage.revision, damage.part, damage.reason, by)
            raise damage.with_remedy(then) from None

    def _read(self, entry: Entry, role: str) -> pq.ParquetFile:
        part = next(p for p in entry.parts if p.role == role)
        try:
            buffer = read_buffer(self.storage, part.key)
        except FileNotFoundError:
            raise DamagedShard(entry.unit, entry.revision, part.key, f"its part {part.key} is missing") from None
        if hashlib.sha256(buffer.getbuffer()).hexdigest() != part.sha256:
            reason = f"the bytes of {part.key} are not those that were committed"
            raise DamagedShard(entry.unit, entry.revision, part.key, reason)
        return pq.ParquetFile(buffer)

    def head_key(self, teacher: str) -> str:
        """Where a `hidden` store has a teacher's head (heads.py)."""
        return self._layout.head(teacher)

    @property
    def vocab_order_files(self) -> VocabOrderFiles:
        """Where the vocabulary order is kept (a `full` store has none)."""
        return VocabOrderFiles(self.storage, self.root, self.header.vocabulary)

    @property
    def has_vocab_order(self) -> bool:
        """Whether a writer need not make the vocabulary order any more."""
        return not self.header.sampled or self._vocab_order is not None or self.vocab_order_files.exist()

    @property
    def vocab_order(self) -> VocabOrder:
        """The store's vocabulary order. Raises DamagedStore if it is lost."""
        if self._vocab_order is None:
            full = not self.header.sampled
            self._vocab_order = VocabOrder.identity(self.header.vocabulary) if full else self.vocab_order_files.read()
        return self._vocab_order

    def _vocab_order_for(self, targets: UnitTargets) -> VocabOrder:
        """The store's table; where nobody made one, it is made from what these targets keep."""
        if not self.has_vocab_order:
            ids = np.concatenate([targets.ids, targets.tokens])
            self.vocab_order_files.create(np.bincount(ids, minlength=self.header.vocabulary))
        return self.vocab_order


def to_parquet(table: pa.Table, header: StoreHeader, about: dict[str, Any]) -> bytes:
    """A part's file: self-describing, with the header and what is true of this unit alone.

    It has no more around the columns than they need: at 5,000 tokens a unit every kilobyte counts.
    """
    split = [f"{f.name}.list.element" for f in table.schema if pa.types.is_nested(f.type)]
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(
        sink,
        table.schema,
        compression="zstd",
        compression_level=9 if header.sampled else 3,
        use_dictionary=["prompt_uid"],
        column_encoding=dict.fromkeys(split, "BYTE_STREAM_SPLIT"),
        write_statistics=False,
        store_schema=not header.sampled,
    ) as writer:
        writer.write_table(table)
        writer.add_key_value_metadata({"stillhouse": header.to_json(), "stillhouse_unit": json.dumps(about)})
    return sink.getvalue().to_pybytes()
