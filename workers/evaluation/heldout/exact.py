"""The teacher's exact distributions on held-out rows, whichever way a store keeps them.

Legend: T target positions, V the tokenizer's ids.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from workers.targets.heads import TeacherHead, read_head
from workers.targets.reader import TargetRow
from workers.targets.store import TargetStore

Exact = Callable[[TargetRow, slice], Tensor]
"""From a row and some of its T positions to their log-probabilities [n, V], float32, normalised."""


def stored(row: TargetRow, positions: slice = slice(None)) -> Tensor:
    """Those of a row of a `full` store."""
    assert row.logprobs is not None
    return torch.from_numpy(np.array(row.logprobs[positions], np.float32)).log_softmax(-1)


class ExactTargets:
    """Those of a row of a `full` or a `hidden` store. Of the latter each teacher's head is read once, and stays on the
    device in float32."""

    def __init__(self, store: TargetStore, device: str) -> None:
        self._store, self._device = store, device
        self._heads: dict[str, TeacherHead] = {}

    def __call__(self, row: TargetRow, positions: slice = slice(None)) -> Tensor:
        """Raises ValueError where the head of its teacher is lost."""
        if row.hidden is None:
            return stored(row, positions)
        hidden_nH, precision = row.hidden[positions], self._store.header.precision
        return self._head(row.teacher).log_probabilities(hidden_nH, precision, row.temperature)

    def _head(self, teacher: str) -> TeacherHead:
        if teacher not in self._heads:
            self._heads[teacher] = read_head(self._store, teacher, "evaluate").on(self._device)
        return self._heads[teacher]
