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
from transformers.cache_utils import Cache, CacheLayerMixin, DummyLayer

from workers.teacher.generation.states import StateLayer, keeps_states

_ROOM = 64
"""Columns to spare when memory is made."""


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
    """A cache of `rows` slots, of which the first `len(first)` hold texts. After each forward pass: `advance`."""

    def __init__(self, rows: int, columns: int, like: Sequence[Any] = ()) -> None:
        """`like`: the layers of the model's own cache; without any, each layer keeps keys and values."""
        if like:
            super().__init__(layers=[self._layer(layer) for layer in like])
        else:
            super().__init__(layer_class_to_replicate=lambda: _SlotLayer(self))
        self.rows, self.columns = rows, columns
        self.start = self.end = 0
        self.first: list[int] = []
        """The column at which each text begins."""

    def advance(self, tokens: int) -> None:
        """Count the columns that a forward pass has written, and make room for one more."""
        self.end += tokens
        if self.end == self.columns:
            self._make_room()

    def mask(self, tokens: int) -> torch.Tensor:
        """Which columns from `start` to those of the `tokens` to come belong to each text [n, columns]."""
        columns = torch.arange(self.start, self.end + tokens)
        return (columns >= torch.tensor(self.first)[:, None]).long()

    def join(self, other: SlotCache, other_rows: list[int]) -> None:
        """Take texts of another cache into further slots; one text may fill several."""
        longest = other.end - min(other.first)
        if self.end < longest:
            self._shift(longest - self.end)
        for row in other_rows:
            length = other.end - other.first[row]
            for mine, theirs in zip(self._tensors(other), other._tensors(other), strict=True):
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
            for tensor in self._tensors():
                tensor[row, :, self.start : self.end] = tensor[last, :, self.start : self.end]
            self.first[row] = self.first[last]
        for layer in self.layers:
            if isinstance(layer, StateLayer):
                layer.leave(row)
        self.first.pop()
        self.start = min(self.first, default=self.end)

    def _layer(self, like: Any) -> Any:
        """The layer of slots for one of a model's own cache."""
        if isinstance(like, DummyLayer):
            return DummyLayer()
        return StateLayer(like.number_of_states) if keeps_states(like) else _SlotLayer(self)

    def _tensors(self, like: SlotCache | None = None) -> Iterator[torch.Tensor]:
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

    def _make_room(self) -> None:
        """Give up the columns before the first text; where those are few, take more memory."""
        if self.start >= self.columns // 4:
            self._shift(-self.start)
        else:
            self._grow(self.columns // 2 + _ROOM)

    def _shift(self, by: int) -> None:
        """Move all texts by some columns."""
        if self.end + by >= self.columns:
            self._grow(self.end + by + _ROOM - self.columns)
        for tensor in self._tensors():
            tensor[:, :, self.start + by : self.end + by] = tensor[:, :, self.start : self.end].clone()
        self.start, self.end = self.start + by, self.end + by
        self.first = [f + by for f in self.first]

    def _grow(self, columns: int) -> None:
        self.columns += columns
        for layer in self.layers:
            if isinstance(layer, _SlotLayer) and layer.keys is not None and layer.values is not None:
                layer.keys = torch.nn.functional.pad(layer.keys, (0, 0, 0, columns))
                layer.values = torch.nn.functional.pad(layer.values, (0, 0, 0, columns))
