"""What a model keeps of texts that come and go: a cache in which each row is one text's slot.

All rows end at the same column, so a text that joins is written to the columns before it, and one that ended leaves its
row to the last one. Nothing is copied when a token is added (transformers' own cache copies all of itself), and
distances between columns are those between tokens, so that sliding windows and masks are what the model makes of them.

    column      0   1   2   3   4   5   6   end
    row 0           a   b   c   d   e   f         joined first
    row 1                       k   l   m         joined later; its columns before `k` are masked

Those are the columns of keys and values; layers that keep states have rows alone (states.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from transformers.cache_utils import Cache, CacheLayerMixin

from workers.teacher.generation.states import StateLayer, keeps_nothing, keeps_states

_ROOM = 64
"""Columns to spare when memory is made, where it is not bounded."""


class _SlotLayer(CacheLayerMixin):
    """Keys and values of one layer [rows, heads, columns, size], written in place."""

    is_sliding = False  # a window's mask hides what it does not reach

    def __init__(self, slots: SlotCache) -> None:
        super().__init__()
        self._slots = slots

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        rows, columns = self._slots.rows, self._slots.columns
        # Zeros: what a mask hides is multiplied by 0, and memory that was never written may hold a NaN.
        self.keys = key_states.new_zeros(rows, key_states.shape[1], columns, key_states.shape[3])
        self.values = value_states.new_zeros(rows, value_states.shape[1], columns, value_states.shape[3])
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if self.keys is None or self.values is None:
            self.lazy_initialization(key_states, value_states)
        assert self.keys is not None and self.values is not None
        n, q = key_states.shape[0], key_states.shape[2]
        start, end = self._slots.start, self._slots.end
        self.keys[:n, :, end : end + q] = key_states
        self.values[:n, :, end : end + q] = value_states
        return self.keys[:n, :, start : end + q], self.values[:n, :, start : end + q]

    def get_seq_length(self) -> int:
        return self._slots.end - self._slots.start

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.get_seq_length() + query_length, 0

    def get_max_length(self) -> int:
        return -1


class SlotCache(Cache):
    """A cache of slots, of which the first `len(first)` hold texts. After each forward pass: `advance`."""

    def __init__(self, slots: int, columns: int, like: Sequence[Any] = (), most: int | None = None) -> None:
        """`like`: the layers of the model's own cache; without any, each layer keeps keys and values.

        `most`: rows times columns of memory, never exceeded: where columns become many, there are fewer rows. Whoever
        lets texts in sees to it that they fit (`columns_for`). None is any number, with a row for each slot.
        """
        if like:
            super().__init__(layers=[self._layer(layer) for layer in like])
        else:
            super().__init__(layer_class_to_replicate=lambda: _SlotLayer(self))
        self._texts, self._most = slots, most
        self.rows, self.columns = slots if most is None else min(slots, most // columns), columns
        self.start = self.end = 0
        self.first: list[int] = []
        """The column at which each text begins."""

    def advance(self, tokens: int) -> None:
        """Count the columns that a forward pass has written, and make room for one more."""
        self.end += tokens
        if self.end == self.columns:
            self._make_room()

    def mask(self, first_n: torch.Tensor, tokens: int) -> torch.Tensor:
        """Which columns from `start` to those of the `tokens` to come belong to each text [n, columns], on the device
        where `first` is given."""
        columns = torch.arange(self.start, self.end + tokens, device=first_n.device)
        return (columns >= first_n[:, None]).long()

    def columns_for(self, length: int, tokens: int) -> int:
        """Columns in which texts beside the present ones can grow, that have `length` tokens at most, when any of all
        gets so many more."""
        return max(self.end - self.start, length) + tokens + 1

    def join(self, other: SlotCache, other_rows: list[int]) -> None:
        """Take texts of another cache into further slots; one text may fill several."""
        longest = other.end - min(other.first)
        self._hold(len(self.first) + len(other_rows), self.columns_for(longest, 0))
        if self.end < longest:
            self._shift(longest - self.end)
        for row in other_rows:
            length = other.end - other.first[row]
            for mine, theirs in zip(self.tensors(other), other.tensors(other), strict=True):
                mine[len(self.first), :, self.end - length : self.end] = theirs[row, :, other.first[row] : other.end]
            self.first.append(self.end - length)
        for mine, theirs in zip(self.layers, other.layers, strict=True):
            if isinstance(mine, StateLayer):
                mine.join(theirs, other_rows)
        self.start = min(self.first)
        if self.end == self.columns:
            self._make_room()

    def leave(self, row: int) -> None:
        """Free a slot: the last text moves into it."""
        last = len(self.first) - 1
        if row != last:
            for tensor in self.tensors():
                tensor[row, :, self.start : self.end] = tensor[last, :, self.start : self.end]
            self.first[row] = self.first[last]
        for layer in self.layers:
            if isinstance(layer, StateLayer):
                layer.leave(row)
        self.first.pop()
        self.start = min(self.first, default=self.end)

    def tensors(self, like: SlotCache | None = None) -> Iterator[torch.Tensor]:
        """The keys and values of all layers; made as another cache's are, where there are none yet."""
        for i, source in enumerate((like or self).layers):
            if i == len(self.layers):
                self.layers.append(_SlotLayer(self))
            layer = self.layers[i]
            if not isinstance(layer, _SlotLayer) or source.keys is None:
                continue
            if layer.keys is None:
                layer.lazy_initialization(source.keys, source.values)
            assert layer.keys is not None and layer.values is not None
            yield layer.keys
            yield layer.values

    def _layer(self, like: Any) -> Any:
        """The layer of slots for one of a model's own cache."""
        if keeps_nothing(like):
            return type(like)()
        return StateLayer(like.number_of_states) if keeps_states(like) else _SlotLayer(self)

    def _make_room(self) -> None:
        """Give up the columns before the first text; where those are few, take more memory, or that of spare rows."""
        rows = len(self.first)
        full = self._most is not None and self._most // max(rows, 1) <= self.columns
        if full or self.start >= self.columns // 4:
            assert self.start > 0, "texts are longer than memory is for"
            self._shift(-self.start)
        else:
            self._hold(rows, self.columns + 1)

    def _hold(self, rows: int, columns: int) -> None:
        """Have memory for so many rows and columns."""
        if rows <= self.rows and columns <= self.columns:
            return
        wanted = self.columns if columns <= self.columns else max(columns, self.columns * 3 // 2) + _ROOM
        if self._most is not None:
            assert rows * columns <= self._most, "more texts than memory is for"
            wanted = min(wanted, self._most // rows)
            self.rows = min(self._texts, self._most // wanted)
        self.columns = wanted
        held = slice(self.start, self.end)
        for layer in self.layers:
            if isinstance(layer, _SlotLayer) and layer.keys is not None and layer.values is not None:
                layer.keys, layer.values = (self._moved(old, held) for old in (layer.keys, layer.values))
        self._count_from(0)

    def _moved(self, old: torch.Tensor, held: slice) -> torch.Tensor:
        """What is held of keys or values, in memory of the present size from its first column on."""
        new = old.new_zeros(self.rows, old.shape[1], self.columns, old.shape[3])
        new[: len(self.first), :, : held.stop - held.start] = old[: len(self.first), :, held]
        return new

    def _shift(self, by: int) -> None:
        """Move all texts by some columns."""
        for tensor in self.tensors():
            tensor[:, :, self.start + by : self.end + by] = tensor[:, :, self.start : self.end].clone()
        self._count_from(self.start + by)

    def _count_from(self, start: int) -> None:
        by = start - self.start
        self.start, self.end = start, self.end + by
        self.first = [f + by for f in self.first]
