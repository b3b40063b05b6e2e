"""Between a unit's flat arrays and their Arrow form, in both directions. No Python object per token on either side.

Legend (see schema.py): R rows, S tokens, T target positions, E kept entries, A always-kept ids, V vocabulary.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from workers.targets.encoding.arrays import Draw, UnitTargets
from workers.targets.encoding.kept import Column, OrderedDraw, draw_columns, read_draw
from workers.targets.encoding.scalars import from_codes, to_codes
from workers.targets.encoding.schema import StoreHeader, arrow_schema, draw_schema
from workers.targets.encoding.segments import differences, firsts, running, segment_sums, within
from workers.targets.encoding.vocab_order import VocabOrder


def encode(unit: UnitTargets, header: StoreHeader, vocab_order: VocabOrder) -> pa.Table:
    """The Arrow table of a unit's texts and first draw."""
    schema, T = arrow_schema(header), unit.target_lengths
    before_S = within(unit.lengths) < np.repeat(unit.starts, unit.lengths)
    flat: dict[str, Column] = {
        "bytes": (differences(unit.ends, unit.lengths), unit.lengths),
        "prompt": (vocab_order.order_of_id[unit.tokens[before_S]], np.minimum(unit.starts, unit.lengths)),
    }
    tokens_T = unit.tokens[~before_S]
    if header.sampled:
        draw = OrderedDraw.of(unit.draws[0], vocab_order)
        flat |= draw_columns(draw, T, header) | _token_hits(draw, vocab_order.order_of_id[tokens_T], T)
        flat |= {name: (to_codes(getattr(unit, name), name), T) for name in ("entropy", "token_logprob")}
        flat |= {"tail": (unit.tail, T), "always": (unit.always, T * len(header.always))}
    else:
        flat |= {
            "tokens": (tokens_T, T),
            "entropy": (unit.entropy, T),
            "token_logprob": (unit.token_logprob, T),
        }
        if header.scheme == "full":
            flat["logprobs"] = (unit.logprobs, T * header.vocabulary)
        else:
            flat["hidden"] = (unit.hidden, T * (len(unit.hidden) // max(len(unit.entropy), 1)))
    columns = {
        "prompt_uid": pa.array(unit.prompt_uids, pa.string()),
        "sample": pa.array(unit.samples, pa.uint16()),
        "text": pa.array(unit.texts, pa.string()),
        "start": pa.array(unit.starts.astype(np.uint32), pa.uint32()),
    }
    return _table(schema, flat, columns)


def decode(table: pa.Table, header: StoreHeader, vocab_order: VocabOrder) -> UnitTargets:
    """The inverse of `encode`: equal array for array, but that entries may stand in another order in a position."""
    flat, table = _columns(table)
    lengths = flat["bytes"][1]
    starts = table["start"].to_numpy().astype(np.int64)
    unit = UnitTargets(
        prompt_uids=table["prompt_uid"].to_pylist(),
        samples=table["sample"].to_numpy(),
        texts=table["text"].to_pylist(),
        lengths=lengths,
        starts=starts,
        ends=running(flat["bytes"][0], lengths).astype(np.uint32),
    )
    if header.sampled:
        draw = read_draw(flat, unit.target_lengths, header)
        tokens_T = vocab_order.id_of_order[_read_tokens(draw, flat["hits"][0], flat["misses"][0])]
        unit.num_kept, unit.ids, unit.counts = vars(draw.draw(vocab_order)).values()
        unit.entropy, unit.token_logprob = (from_codes(flat[name][0], name) for name in ("entropy", "token_logprob"))
        unit.tail = flat["tail"][0] if "tail" in flat else unit.tail
        unit.always = flat["always"][0] if "always" in flat else unit.always
    else:
        tokens_T = flat["tokens"][0].astype(np.uint32)
        unit.entropy, unit.token_logprob = (flat[name][0] for name in ("entropy", "token_logprob"))
        unit.logprobs = flat["logprobs"][0] if "logprobs" in flat else unit.logprobs
        unit.hidden = flat["hidden"][0] if "hidden" in flat else unit.hidden
    before_S = within(lengths) < np.repeat(starts, lengths)
    unit.tokens = np.empty(len(before_S), np.uint32)
    unit.tokens[before_S], unit.tokens[~before_S] = vocab_order.id_of_order[flat["prompt"][0]], tokens_T
    return unit


def encode_draw(draw: Draw, target_lengths: np.ndarray, header: StoreHeader, vocab_order: VocabOrder) -> pa.Table:
    """The Arrow table of a further draw of a unit, whose rows have so many target positions."""
    return _table(draw_schema(header), draw_columns(OrderedDraw.of(draw, vocab_order), target_lengths, header), {})


def decode_draw(table: pa.Table, header: StoreHeader, vocab_order: VocabOrder) -> Draw:
    """The inverse of `encode_draw`."""
    flat, _ = _columns(table)
    return read_draw(flat, flat["num_kept"][1], header).draw(vocab_order)


def _token_hits(draw: OrderedDraw, order_T: np.ndarray, lengths_R: np.ndarray) -> dict[str, Column]:
    """The token that stands at each position: which kept entry it is, from 1, or 0 and its rank."""
    position_E = np.repeat(np.arange(len(order_T)), draw.num_kept)
    (found,) = np.nonzero(draw.orders == order_T[position_E])
    hits_T = np.zeros(len(order_T), np.int64)
    hits_T[position_E[found]] = found - firsts(draw.num_kept)[position_E[found]] + 1
    missed_T = hits_T == 0
    return {"hits": (hits_T, lengths_R), "misses": (order_T[missed_T], segment_sums(missed_T, lengths_R))}


def _read_tokens(draw: OrderedDraw, hits_T: np.ndarray, misses: np.ndarray) -> np.ndarray:
    """The inverse of `_token_hits`: the rank of each position's token."""
    hit = hits_T > 0
    order_T = np.empty(len(hit), np.int64)
    order_T[hit] = draw.orders[(firsts(draw.num_kept) + hits_T.astype(np.int64) - 1)[hit]]
    order_T[~hit] = misses
    return order_T


def _table(schema: pa.Schema, flat: dict[str, Column], columns: dict[str, pa.Array]) -> pa.Table:
    lists = {f.name: _lists(*flat[f.name], f.type) for f in schema if f.name not in columns}
    return pa.table([(columns | lists)[name] for name in schema.names], schema=schema)


def _lists(values: np.ndarray, lengths: np.ndarray, kind: pa.DataType) -> pa.Array:
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    flat = pa.array(np.ascontiguousarray(values).astype(kind.value_type.to_pandas_dtype(), copy=False), kind.value_type)
    if pa.types.is_large_list(kind):
        return pa.LargeListArray.from_arrays(pa.array(offsets, pa.int64()), flat)
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), flat)


def _columns(table: pa.Table) -> tuple[dict[str, Column], pa.Table]:
    """The nested columns of a table, flat, and the table in one chunk."""
    table = table.combine_chunks()
    return {f.name: _column(table[f.name]) for f in table.schema if pa.types.is_nested(f.type)}, table


def _column(column: pa.ChunkedArray) -> Column:
    if column.num_chunks == 0:
        return np.zeros(0, column.type.value_type.to_pandas_dtype()), np.zeros(0, np.int64)
    lists = column.chunk(0)
    return lists.flatten().to_numpy(zero_copy_only=False), np.diff(lists.offsets.to_numpy()).astype(np.int64)
