"""The frozen prompts of a split on storage: written once, read by unit.

    train.plan.parquet     a row a unit: what it is, and where its prompts lie; it comes last and marks the split frozen
    train/00000.units      prompts of some units, each unit a record batch (Arrow's IPC message, zstd) of its own
    train/00000.ids.parquet   the ids of these prompts, each with its unit

A unit is opened by one read of its bytes, whatever the split holds.
"""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cluster.storage import Storage, read_buffer
from workers.layout import (
    FIRST_GENERATION,
    manifest_ids_key,
    manifest_key,
    old_manifest_keys,
    plan_key,
)
from workers.units import Prompt, Unit, UnitPlan

PROMPT_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("domains", pa.list_(pa.string())),
        ("teacher", pa.string()),
        ("samples", pa.uint16()),
        ("temperature", pa.float64()),
        ("top_p", pa.float64()),
        ("max_new_tokens", pa.uint32()),
        ("prompt_token_ids", pa.list_(pa.uint32())),
        ("answer_token_ids", pa.list_(pa.uint32())),
        ("min_new_tokens", pa.uint32()),
        ("stop", pa.list_(pa.string())),
    ]
)

_PLAN_SCHEMA = pa.schema(
    [
        ("domains", pa.list_(pa.string())),
        ("teacher", pa.string()),
        ("prompts", pa.uint32()),
        ("tokens", pa.uint64()),
        ("generates", pa.bool_()),
        ("shard", pa.uint32()),
        ("offset", pa.uint64()),
        ("bytes", pa.uint64()),
        ("unpacked", pa.uint64()),
    ]
)
_ABOUT = b"stillhouse_plan"
_CODEC = pa.Codec("zstd", 3)


@dataclass(frozen=True)
class UnitPlace:
    """Where the prompts of a unit lie."""

    shard: int
    offset: int
    bytes: int
    unpacked: int
    """Bytes of its record batch."""


def write_shard(
    storage: Storage, split: str, shard: int, units: Iterable[tuple[int, pa.RecordBatch]], generation: str
) -> dict[int, UnitPlace]:
    """Write a manifest shard: units by index with their prompts (of PROMPT_SCHEMA), in the order in which they are
    given. Returns where each lies."""
    places, ids, data = {}, [], io.BytesIO()
    for index, batch in units:
        message = batch.serialize()
        packed = _CODEC.compress(message, asbytes=True)
        places[index] = UnitPlace(shard, data.tell(), len(packed), message.size)
        data.write(packed)
        ids.append(pa.table({"id": batch["id"], "unit": pa.repeat(pa.scalar(index, pa.uint32()), batch.num_rows)}))
    storage.write(manifest_key(split, shard, generation), data.getvalue())
    sink = pa.BufferOutputStream()
    pq.write_table(pa.concat_tables(ids), sink, compression="zstd")
    storage.write(manifest_ids_key(split, shard, generation), sink.getvalue().to_pybytes())
    return places


def write_plan(storage: Storage, plan: UnitPlan, places: Sequence[UnitPlace]) -> None:
    """Write the plan of a split whose shards are written: from then on it is frozen. Raises ValueError where another
    process froze it otherwise."""
    columns = {
        **{name: [getattr(u, name) for u in plan.units] for name in ("teacher", "prompts", "tokens", "generates")},
        **{name: [getattr(p, name) for p in places] for name in ("shard", "offset", "bytes", "unpacked")},
        "domains": [list(u.domains) for u in plan.units],
    }
    about = {_ABOUT: json.dumps({"split": plan.split, "generation": plan.generation}).encode()}
    schema, sink = _PLAN_SCHEMA.with_metadata(about), pa.BufferOutputStream()
    arrays = [pa.array(columns[field.name], field.type) for field in schema]
    pq.write_table(pa.Table.from_arrays(arrays, schema=schema), sink, compression="zstd")
    if not storage.create(plan_key(plan.split, plan.generation), sink.getvalue().to_pybytes()):
        raise ValueError(
            f"prompts: the {plan.split} prompts of this run were frozen otherwise by another process meanwhile"
        )


def write_manifest(storage: Storage, plan: UnitPlan, blocks: Sequence[Sequence[Prompt]]) -> None:
    """Freeze a split whose prompts are at hand, in unit order."""
    batches = ((i, pa.RecordBatch.from_pylist([asdict(p) for p in b], PROMPT_SCHEMA)) for i, b in enumerate(blocks))
    places = write_shard(storage, plan.split, 0, batches, plan.generation) if blocks else {}
    write_plan(storage, plan, [places.get(u.index, UnitPlace(0, 0, 0, 0)) for u in plan.units])


def is_frozen(storage: Storage, split: str, generation: str = FIRST_GENERATION) -> bool:
    """Whether a split has a plan."""
    return storage.exists(plan_key(split, generation)) or storage.exists(old_manifest_keys(split)[0])


def read_plan(storage: Storage, split: str, generation: str = FIRST_GENERATION) -> UnitPlan:
    """The frozen plan of a split. Raises FileNotFoundError before prompts were frozen."""
    try:
        table = pq.read_table(read_buffer(storage, plan_key(split, generation)), use_threads=False)
    except FileNotFoundError:
        return _read_old_plan(storage, split)
    about = json.loads(table.schema.metadata[_ABOUT])
    names = ("domains", "teacher", "prompts", "tokens", "generates")
    rows = zip(*(table[name].to_pylist() for name in names), strict=True)
    units = tuple(Unit(i, tuple(domains), *rest) for i, (domains, *rest) in enumerate(rows))
    return UnitPlan(split, units, about["generation"])


class Manifest:
    """Random access to the frozen prompts of a split by unit. Raises FileNotFoundError before they were frozen."""

    def __init__(self, storage: Storage, split: str, generation: str = FIRST_GENERATION) -> None:
        self._storage, self._split, self._generation = storage, split, generation
        self._old: pq.ParquetFile | None = None
        self._lock = threading.Lock()
        names = ["shard", "offset", "bytes", "unpacked"]
        try:
            buffer = read_buffer(storage, plan_key(split, generation))
            self._places = pq.read_table(buffer, columns=names, use_threads=False)
        except FileNotFoundError:
            self._old = pq.ParquetFile(read_buffer(storage, old_manifest_keys(split)[1]))

    def prompts(self, unit: int) -> list[Prompt]:
        """The prompts of a unit."""
        return [_prompt(row) for row in self._batch(unit).to_pylist()]

    def prompt_lengths(self, unit: int) -> dict[str, int]:
        """The tokens of each prompt of a unit, its answer left out, by id."""
        batch = self._batch(unit)
        lengths = pc.list_value_length(batch["prompt_token_ids"])
        return dict(zip(batch["id"].to_pylist(), lengths.to_pylist(), strict=True))

    def unit_of(self, prompt_uid: str) -> int | None:
        """The unit that holds a prompt, or None if no prompt of the split has that id."""
        for table in self._ids():
            if (row := pc.index(table["id"], prompt_uid).as_py()) >= 0:
                return int(table["unit"][row].as_py())
        return None

    def ids(self) -> Iterator[str]:
        """Ids of all prompts."""
        for table in self._ids():
            yield from table["id"].to_pylist()

    def _ids(self) -> Iterator[pa.Table]:
        if self._old is not None:
            yield self._old.read(columns=["unit", "id"], use_threads=False)
            return
        for shard in sorted(set(self._places["shard"].to_pylist())):
            key = manifest_ids_key(self._split, shard, self._generation)
            yield pq.read_table(read_buffer(self._storage, key), use_threads=False)

    def _batch(self, unit: int) -> pa.RecordBatch | pa.Table:
        if self._old is not None:
            with self._lock:  # its file has one place
                return self._old.read_row_group(unit, use_threads=False).drop_columns(["unit"])
        shard, offset, size, unpacked = (self._places[name][unit].as_py() for name in self._places.column_names)
        packed = self._storage.read_range(manifest_key(self._split, shard, self._generation), offset, size)
        return pa.ipc.read_record_batch(_CODEC.decompress(packed, unpacked), PROMPT_SCHEMA)


def _prompt(row: dict[str, Any]) -> Prompt:
    fields: dict[str, Any] = {k: tuple(v) if k in ("domains", "stop") else v for k, v in row.items()}
    return Prompt(**fields)


def _read_old_plan(storage: Storage, split: str) -> UnitPlan:
    """A plan from before manifests had shards."""
    data = json.loads(storage.read(old_manifest_keys(split)[0]))
    units = tuple(Unit(**{**u, "domains": tuple(u["domains"])}) for u in data["units"])
    return UnitPlan(split, units, data["generation"])
