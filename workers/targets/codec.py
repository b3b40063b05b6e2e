"""Between a unit's flat arrays and their Arrow form, in both directions. No Python object per token on either side.

Legend (see schema.py): R rows, S tokens, T target positions, E kept entries, V vocabulary.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from workers.targets.arrays import UnitTargets, segment_sums
from workers.targets.schema import StoreHeader, arrow_schema


def encode(unit: UnitTargets, header: StoreHeader) -> pa.Table:
    """The Arrow table of a unit, in the store's schema."""
    schema = arrow_schema(header)
    T = unit.target_lengths
    columns: dict[str, pa.Array] = {
        "prompt_id": pa.array(unit.prompt_ids, pa.string()),
        "sample": pa.array(unit.samples, pa.uint16()),
        "text": pa.array(unit.texts, pa.string()),
        "tokens": _lists(unit.tokens, unit.lengths, schema.field("tokens").type),
        "ends": _lists(unit.ends, unit.lengths, schema.field("ends").type),
        "start": pa.array(unit.starts.astype(np.uint32), pa.uint32()),
        "entropy": _lists(unit.entropy, T, schema.field("entropy").type),
        "realised": _lists(unit.realised, T, schema.field("realised").type),
    }
    if header.scheme == "full":
        columns["logprobs"] = _lists(unit.logprobs, T * header.vocabulary, schema.field("logprobs").type)
    else:
        per_row = segment_sums(unit.entries, T)
        columns["entries"] = _lists(unit.entries, T, schema.field("entries").type)
        columns["deltas"] = _lists(_to_deltas(unit.ids, unit.entries), per_row, schema.field("deltas").type)
        columns["counts"] = _lists(unit.counts, per_row, schema.field("counts").type)
    return pa.table([columns[name] for name in schema.names], schema=schema)


def decode(table: pa.Table, header: StoreHeader) -> UnitTargets:
    """The inverse of `encode`, equal array for array."""
    table = table.combine_chunks()
    flat = {
        name: _values(table, name) for name in table.schema.names if pa.types.is_nested(table.schema.field(name).type)
    }
    unit = UnitTargets(
        prompt_ids=table["prompt_id"].to_pylist(),
        samples=table["sample"].to_numpy(),
        texts=table["text"].to_pylist(),
        lengths=_list_lengths(table, "tokens"),
        starts=table["start"].to_numpy().astype(np.int64),
        tokens=flat["tokens"].astype(np.uint32),
        ends=flat["ends"],
        entropy=flat["entropy"],
        realised=flat["realised"],
    )
    if header.scheme == "full":
        unit.logprobs = flat["logprobs"]
    else:
        unit.entries, unit.counts = flat["entries"], flat["counts"]
        unit.ids = _from_deltas(flat["deltas"], unit.entries)
    return unit


def _lists(values: np.ndarray, lengths: np.ndarray, kind: pa.DataType) -> pa.Array:
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    flat = pa.array(np.ascontiguousarray(values).astype(kind.value_type.to_pandas_dtype(), copy=False), kind.value_type)
    if pa.types.is_large_list(kind):
        return pa.LargeListArray.from_arrays(pa.array(offsets, pa.int64()), flat)
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), flat)


def _values(table: pa.Table, name: str) -> np.ndarray:
    column = table[name]
    if column.num_chunks == 0:
        return np.zeros(0, table.schema.field(name).type.value_type.to_pandas_dtype())
    return column.chunk(0).flatten().to_numpy(zero_copy_only=False)


def _list_lengths(table: pa.Table, name: str) -> np.ndarray:
    column = table[name]
    if column.num_chunks == 0:
        return np.zeros(0, np.int64)
    return np.diff(column.chunk(0).offsets.to_numpy()).astype(np.int64)


def _firsts(entries: np.ndarray) -> np.ndarray:
    """Index of the first entry of each position [T]."""
    return np.concatenate([[0], np.cumsum(entries.astype(np.int64))])[:-1]


def _to_deltas(ids: np.ndarray, entries: np.ndarray) -> np.ndarray:
    deltas = np.diff(ids.astype(np.int64), prepend=0)
    firsts = _firsts(entries)
    deltas[firsts] = ids[firsts]
    return deltas


def _from_deltas(deltas: np.ndarray, entries: np.ndarray) -> np.ndarray:
    running = np.cumsum(deltas.astype(np.int64))
    firsts = _firsts(entries)
    base = running[firsts] - deltas[firsts]  # what ran up before each position began
    return (running - np.repeat(base, entries)).astype(np.uint32)
