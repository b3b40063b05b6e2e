"""Kept entries of one draw, between flat arrays and the small numbers that are stored.

Ids become vocab_order, ascending in each position; vocab_order become gaps; gaps become buckets and plain bits
(buckets.py). Counts that are the usual one are left out, and so is the first of each position where all are known to
sum to the draws.

Legend (see schema.py): R rows, T target positions, E kept entries.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from workers.targets.encoding.arrays import Draw
from workers.targets.encoding.buckets import WIDTHS, from_buckets, pack, to_buckets, unpack
from workers.targets.encoding.schema import StoreHeader
from workers.targets.encoding.segments import differences, firsts, is_first, running, segment_sums, within
from workers.targets.encoding.vocab_order import VocabOrder

_MOST_SKIPPED = 1 << 16

Column = tuple[np.ndarray, np.ndarray]
"""Values of a column, flat, and how many each row has."""


@dataclass(frozen=True)
class OrderedDraw:
    """A draw in order of vocab_order."""

    num_kept: np.ndarray
    """[T] (int64)."""
    orders: np.ndarray
    """[E] (int64)."""
    counts: np.ndarray

    @staticmethod
    def of(draw: Draw, table: VocabOrder) -> OrderedDraw:
        entries = draw.num_kept.astype(np.int64)
        position_E = np.repeat(np.arange(len(entries)), entries)
        order_E = table.order_of_id[draw.ids].astype(np.int64)
        order = np.argsort(position_E * len(table.order_of_id) + order_E, kind="stable")
        return OrderedDraw(entries, order_E[order], draw.counts[order])

    def draw(self, table: VocabOrder) -> Draw:
        return Draw(self.num_kept.astype(np.uint16), table.id_of_order[self.orders], self.counts)


def draw_columns(draw: OrderedDraw, lengths_R: np.ndarray, header: StoreHeader) -> dict[str, Column]:
    """The columns of a draw; `lengths_R` are the target positions of each row."""
    entries_R = segment_sums(draw.num_kept, lengths_R)
    first_E = is_first(draw.num_kept)
    gap_E = differences(draw.orders, draw.num_kept) - ~first_E
    bucket_E, rest_E = to_buckets(gap_E)
    data, byte_R = pack(rest_E, WIDTHS[bucket_E], entries_R)
    heads_R = segment_sums(draw.num_kept > 0, lengths_R)
    columns = {
        "num_kept": (draw.num_kept, lengths_R),
        "heads": (bucket_E[first_E], heads_R),
        "steps": (bucket_E[~first_E], entries_R - heads_R),
        "bits": (data, byte_R),
    }
    if header.scheme == "topk":
        return columns | {"codes": (draw.counts, entries_R)}
    written, written_R = draw.counts, entries_R
    if header.fixed_sum:
        written, written_R = written[~first_E], entries_R - heads_R
    skips, counts, lengths = _unusual(written, written_R, header.usual_count)
    return columns | {"skips": (skips, lengths), "counts": (counts, lengths)}


def read_draw(columns: dict[str, Column], lengths_R: np.ndarray, header: StoreHeader) -> OrderedDraw:
    """The inverse of `draw_columns`."""
    entries = columns["num_kept"][0].astype(np.int64)
    entries_R = segment_sums(entries, lengths_R)
    first_E = is_first(entries)
    later_E = ~first_E
    bucket_E = np.empty(len(first_E), np.uint8)
    bucket_E[first_E], bucket_E[later_E] = columns["heads"][0], columns["steps"][0]
    gap_E = from_buckets(bucket_E, unpack(columns["bits"][0], WIDTHS[bucket_E], entries_R))
    order_E = running(gap_E + later_E, entries)
    if header.scheme == "topk":
        return OrderedDraw(entries, order_E, columns["codes"][0])
    written_R = entries_R - columns["heads"][1] if header.fixed_sum else entries_R
    written = _all_counts(columns["skips"][0], columns["counts"], written_R, header.usual_count)
    if not header.fixed_sum:
        return OrderedDraw(entries, order_E, written)
    counts_E = np.zeros(len(first_E), np.uint16)
    counts_E[later_E] = written
    counts_E[first_E] = header.draws - segment_sums(counts_E, entries)
    return OrderedDraw(entries, order_E, counts_E)


def _unusual(counts: np.ndarray, lengths: np.ndarray, usual: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """How many usual counts stand before each that is not, in its row; those counts; and how many each row has.

    Most counts are 1, which costs a whole bit where it stands for itself. The last of as many as sixteen bits hold is
    written out in any case.
    """
    place = within(lengths)
    unusual = (counts != usual) | (place % _MOST_SKIPPED == _MOST_SKIPPED - 1)
    unusual_R = segment_sums(unusual, lengths)
    return differences(place[unusual] + 1, unusual_R) - 1, counts[unusual], unusual_R


def _all_counts(skips: np.ndarray, unusual: Column, lengths: np.ndarray, usual: int) -> np.ndarray:
    """The inverse of `_unusual`."""
    counts = np.full(int(lengths.sum()), usual, np.uint16)
    values, unusual_R = unusual
    counts[running(skips.astype(np.int64) + 1, unusual_R) - 1 + np.repeat(firsts(lengths), unusual_R)] = values
    return counts
