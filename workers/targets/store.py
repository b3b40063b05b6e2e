"""A target store: its header, its parts, its log. Where writers commit units and readers open them."""

from __future__ import annotations

import hashlib
import uuid

import pyarrow as pa
import pyarrow.parquet as pq

from cluster.faults import pause_point
from cluster.storage import Storage, read_buffer
from workers.splits import GENERATION
from workers.targets.arrays import UnitTargets
from workers.targets.codec import decode, encode
from workers.targets.log import Entry, Part, TargetLog
from workers.targets.schema import StoreHeader


class DamagedShard(ValueError):
    """A part that is missing or does not have the bytes that the log promises."""


class TargetStore:
    """One store of a run: `targets/train` or `targets/heldout`."""

    def __init__(self, storage: Storage, split: str) -> None:
        self.storage = storage
        self.split = split
        self.root = f"targets/{split}"
        self.log = TargetLog(storage, self.root)
        self._header: StoreHeader | None = None

    def create(self, header: StoreHeader) -> None:
        """Fix the header of a new store. Raises ValueError if the store exists with another one."""
        if not self.storage.create(f"{self.root}/store.json", header.to_json().encode()):
            names = ", ".join(self.header.differences(header))
            raise ValueError(
                f"targets: the store of this run was made with other settings ({names}); "
                "use another run name, or the settings of the first run"
            )

    @property
    def header(self) -> StoreHeader:
        """The store's header. Raises FileNotFoundError before the store exists."""
        if self._header is None:
            self._header = StoreHeader.from_json(self.storage.read(f"{self.root}/store.json"))
        return self._header

    def write_part(self, unit: int, targets: UnitTargets) -> tuple[Part, ...]:
        """Store a unit's targets under a name of their own: readers cannot see them before `log.commit`."""
        if targets.rows == 0:
            return ()
        data = _parquet(encode(targets, self.header), full=self.header.scheme == "full")
        key = f"{self.root}/parts/{GENERATION}/{unit:08d}-{uuid.uuid4().hex[:8]}.parquet"
        self.storage.write(key, data)
        pause_point("part-written")
        return (Part("targets", key, len(data), hashlib.sha256(data).hexdigest()),)

    def read_unit(self, entry: Entry) -> UnitTargets:
        """The targets of a committed unit. Raises DamagedShard naming a part whose bytes are not those committed."""
        if not entry.parts:
            return UnitTargets()
        part = next(p for p in entry.parts if p.role == "targets")
        try:
            buffer = read_buffer(self.storage, part.key)
        except FileNotFoundError:
            raise DamagedShard(f"unit {entry.unit}: its part {part.key} is missing") from None
        if hashlib.sha256(buffer.getbuffer()).hexdigest() != part.sha256:
            raise DamagedShard(f"unit {entry.unit}: the bytes of {part.key} are not those that were committed")
        return decode(pq.ParquetFile(buffer).read(), self.header)


def _parquet(table: pa.Table, full: bool) -> bytes:
    split = ["logprobs"] if full else ["deltas", "tokens", "entropy", "realised"]
    dictionary = ["prompt_id"]
    sink = pa.BufferOutputStream()
    pq.write_table(
        table,
        sink,
        compression="zstd",
        compression_level=3 if full else 9,
        use_dictionary=dictionary,
        column_encoding={f"{name}.list.element": "BYTE_STREAM_SPLIT" for name in split},
        write_statistics=False,
    )
    return sink.getvalue().to_pybytes()
