"""Between a unit's flat arrays and their Arrow form, in both directions. No Python object per token on either side.

Legend (see schema.py): R rows, S tokens, T target positions, E kept entries, V vocabulary.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from workers.targets.arrays import UnitTargets, segment_sums
from workers.targets.ranks import RankTable
from workers.targets.scalars import from_codes, to_codes
from workers.targets.schema import StoreHeader, arrow_schema


def encode(unit: UnitTargets, header: StoreHeader, ranks: RankTable) -> pa.Table:
    """The Arrow table of a unit, in the store's schema."""
    schema, T = arrow_schema(header), unit.target_lengths
    before_S = _within(unit.lengths) < np.repeat(unit.starts, unit.lengths)
    flat: dict[str, tuple[np.ndarray, np.ndarray]] = {
        "bytes": (_differences(unit.ends, unit.lengths), unit.lengths),
        "prompt": (ranks.rank_of_id[unit.tokens[before_S]], np.minimum(unit.starts, unit.lengths)),
    }
    tokens_T = unit.tokens[~before_S]
    if header.sampled:
        flat |= _sampled_columns(unit, header, ranks, tokens_T)
    else:
        flat |= {
            "tokens": (tokens_T, T),
            "entropy": (unit.entropy, T),
            "realised": (unit.realised, T),
            "logprobs": (unit.logprobs, T * header.vocabulary),
        }
    columns: dict[str, pa.Array] = {
        "prompt_id": pa.array(unit.prompt_ids, pa.string()),
        "sample": pa.array(unit.samples, pa.uint16()),
        "text": pa.array(unit.texts, pa.string()),
        "start": pa.array(unit.starts.astype(np.uint32), pa.uint32()),
    } | {name: _lists(values, lengths, schema.field(name).type) for name, (values, lengths) in flat.items()}
    return pa.table([columns[name] for name in schema.names], schema=schema)


def decode(table: pa.Table, header: StoreHeader, ranks: RankTable) -> UnitTargets:
    """The inverse of `encode`: equal array for array, but that entries may stand in another order in a position."""
    table = table.combine_chunks()
    nested = [f.name for f in table.schema if pa.types.is_nested(f.type)]
    flat = {name: _values(table, name) for name in nested}
    lengths = _list_lengths(table, "bytes")
    starts = table["start"].to_numpy().astype(np.int64)
    unit = UnitTargets(
        prompt_ids=table["prompt_id"].to_pylist(),
        samples=table["sample"].to_numpy(),
        texts=table["text"].to_pylist(),
        lengths=lengths,
        starts=starts,
        ends=_running(flat["bytes"], lengths),
    )
    if header.sampled:
        tokens_T = _read_sampled(unit, flat, _list_lengths(table, "counts"), header, ranks)
    else:
        tokens_T = flat["tokens"].astype(np.uint32)
        unit.entropy, unit.realised, unit.logprobs = flat["entropy"], flat["realised"], flat["logprobs"]
    before_S = _within(lengths) < np.repeat(starts, lengths)
    unit.tokens = np.empty(len(before_S), np.uint32)
    unit.tokens[before_S], unit.tokens[~before_S] = ranks.id_of_rank[flat["prompt"]], tokens_T
    return unit


def _sampled_columns(
    unit: UnitTargets, header: StoreHeader, ranks: RankTable, tokens_T: np.ndarray
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Values and lengths of rows of the columns that a sampled store has beside the text's."""
    T, entries = unit.target_lengths, unit.entries.astype(np.int64)
    position_E = np.repeat(np.arange(len(entries)), entries)
    rank_E = ranks.rank_of_id[unit.ids].astype(np.int64)
    order = np.argsort(position_E * header.vocabulary + rank_E, kind="stable")
    rank_E, counts_E = rank_E[order], unit.counts[order]
    first = np.zeros(len(rank_E), bool)
    first[_firsts(entries)] = True
    delta_E = np.where(first, rank_E, np.diff(rank_E, prepend=0) - 1)
    token_rank_T = ranks.rank_of_id[tokens_T]
    (found,) = np.nonzero(rank_E == np.repeat(token_rank_T, entries))
    hits_T = np.zeros(len(entries), np.int64)
    hits_T[position_E[found]] = found - _firsts(entries)[position_E[found]] + 1
    missed_T = hits_T == 0
    entries_R = segment_sums(entries, T)
    written_E = ~first if header.fixed_sum else np.ones(len(first), bool)
    skips, unusual, unusual_R = _unusual(counts_E[written_E], segment_sums(written_E, entries_R), header.usual_count)
    return {
        "hits": (hits_T, T),
        "misses": (token_rank_T[missed_T], segment_sums(missed_T, T)),
        "entropy": (to_codes(unit.entropy, "entropy"), T),
        "realised": (to_codes(unit.realised, "realised"), T),
        "entries": (entries, T),
        "deltas": (delta_E, entries_R),
        "skips": (skips, unusual_R),
        "counts": (unusual, unusual_R),
    }


def _unusual(counts: np.ndarray, lengths: np.ndarray, usual: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Counts as those that are not the usual one, and how many usual ones stand before each, by rows.

    Most counts are 1, which costs a whole bit where it stands for itself.
    """
    unusual = counts != usual
    unusual_R = segment_sums(unusual, lengths)
    (at,) = np.nonzero(unusual)
    place = _within(lengths)[at]
    skips = np.diff(place, prepend=-1) - 1
    firsts = _firsts(unusual_R)[unusual_R > 0]
    skips[firsts] = place[firsts]
    return skips, counts[at], unusual_R


def _all_counts(
    skips: np.ndarray, unusual: np.ndarray, unusual_R: np.ndarray, lengths: np.ndarray, usual: int
) -> np.ndarray:
    """The inverse of `_unusual`."""
    counts = np.full(int(lengths.sum()), usual, np.uint16)
    place = _running(skips + 1, unusual_R).astype(np.int64) - 1
    counts[place + np.repeat(_firsts(lengths), unusual_R)] = unusual
    return counts


def _read_sampled(
    unit: UnitTargets, flat: dict[str, np.ndarray], unusual_R: np.ndarray, header: StoreHeader, ranks: RankTable
) -> np.ndarray:
    """Fill in what a sampled store keeps; returns the tokens of the target positions [T]."""
    entries = flat["entries"].astype(np.int64)
    firsts = _firsts(entries)
    step_E = flat["deltas"].astype(np.int64) + 1
    running_E = np.cumsum(step_E)
    base_T = running_E[firsts] - flat["deltas"][firsts]  # what ran up before each position began
    rank_E = running_E - np.repeat(base_T, entries)
    unit.entries, unit.ids = flat["entries"], ranks.id_of_rank[rank_E]
    unit.entropy, unit.realised = from_codes(flat["entropy"], "entropy"), from_codes(flat["realised"], "realised")
    written_E = np.ones(len(rank_E), bool)
    if header.fixed_sum:
        written_E[firsts] = False
    unit.counts = np.zeros(len(rank_E), np.uint16)
    written_R = segment_sums(written_E, segment_sums(entries, unit.target_lengths))
    unit.counts[written_E] = _all_counts(flat["skips"], flat["counts"], unusual_R, written_R, header.usual_count)
    if header.fixed_sum:
        unit.counts[firsts] = header.draws - segment_sums(unit.counts, entries)
    hits = flat["hits"].astype(np.int64)
    tokens_T = np.empty(len(entries), np.uint32)
    tokens_T[hits > 0] = unit.ids[(firsts + hits - 1)[hits > 0]]
    tokens_T[hits == 0] = ranks.id_of_rank[flat["misses"]]
    return tokens_T


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


def _firsts(lengths: np.ndarray) -> np.ndarray:
    """Index of the first element of each segment."""
    return np.cumsum(lengths) - lengths


def _within(lengths: np.ndarray) -> np.ndarray:
    """Place of each element in its segment."""
    return np.arange(int(lengths.sum())) - np.repeat(_firsts(lengths), lengths)


def _differences(values: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Differences within segments; the first of a segment as it is."""
    differences = np.diff(values.astype(np.int64), prepend=0)
    firsts = _firsts(lengths)[lengths > 0]
    differences[firsts] = values[firsts]
    return differences


def _running(differences: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """The inverse of `_differences`."""
    running = np.cumsum(differences.astype(np.int64))
    firsts = _firsts(lengths)[lengths > 0]
    base = running[firsts] - differences[firsts]
    return (running - np.repeat(base, lengths[lengths > 0])).astype(np.uint32)
