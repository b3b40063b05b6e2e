"""From rows of the target store to micro-batches: what one forward pass of a worker sees, and is compared with.

Legend: T target positions of all texts, K most entries at a position, E entries of all positions, V vocabulary.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

import numpy as np
import torch
from torch import Tensor

from workers.student.batches.packing import Layout, Texts, group_rows, lay_out, longest_first
from workers.student.losses.config import LossConfig
from workers.student.losses.fused import HeadTargets
from workers.student.losses.objective import floor_of, position_weights, waits_for_distributions
from workers.student.losses.teacher_states import TeacherStates
from workers.targets.heads import from_stored
from workers.targets.reader import TargetRow


@dataclass(frozen=True)
class MicroBatch:
    """Texts and their targets. The sum over T of both is the loss."""

    texts: Texts
    targets: HeadTargets
    floor: float
    """The least that the soft part of the loss can be: nats, summed over positions; 0 where the loss is a divergence
    already, which is 0 at best."""

    def map(self, change: Callable[[Tensor], Tensor]) -> MicroBatch:
        """The same with every tensor changed, for example moved to a device."""
        return replace(self, texts=self.texts.map(change), targets=self.targets.map(change))

    def scaled(self, factor: float) -> MicroBatch:
        """The same work, each position weighing so many times what it does; 0 contributes nothing."""
        hard, soft = self.targets.hard_T, self.targets.soft_T
        weights = {"hard_T": hard * factor, "soft_T": soft * factor if soft is not None else None}
        return replace(self, targets=replace(self.targets, **weights), floor=self.floor * factor)


def shares(rows: list[TargetRow], workers: int) -> list[list[TargetRow]]:
    """The rows of a global batch by worker, so that all have about as many tokens to compute: longest first, each to
    the worker with the fewest so far (Graham 1969: the largest share is at most 4/3 of what it must be). All workers
    come to the same, whatever order they have the rows in."""
    if workers == 1:
        return [rows]
    found: list[list[TargetRow]] = [[] for _ in range(workers)]
    held = [(0, worker) for worker in range(workers)]
    for row in sorted(rows, key=longest_first):
        tokens, worker = heapq.heappop(held)
        found[worker].append(row)
        heapq.heappush(held, (tokens + len(row.tokens), worker))
    return found


def micro_batches(
    rows: list[TargetRow], loss: LossConfig, most_tokens: int, layout: Layout = "packed", *, spent: float = 0.0
) -> list[MicroBatch]:
    """Rows as micro-batches of at most `most_tokens` tokens each (or one row), when a part of the budget is `spent`."""
    return [collate(group, loss, layout, spent=spent) for group in group_rows(rows, most_tokens, layout)]


def collate(rows: list[TargetRow], loss: LossConfig, layout: Layout = "packed", *, spent: float = 0.0) -> MicroBatch:
    """One micro-batch. Of hidden states, texts of one teacher stand together."""
    rows = sorted(rows, key=lambda row: row.teacher) if rows[0].hidden is not None else rows
    kl, ce = loss.weights_at(spent)
    weights = [position_weights(row, loss, kl, ce) for row in rows]
    labels_T = np.concatenate([r.tokens[r.start :].astype(np.int64) for r in rows])
    targets = HeadTargets(torch.from_numpy(labels_T), torch.from_numpy(np.concatenate([hard for _, hard in weights])))
    floor = 0.0
    if kl:
        soft = {"soft_T": torch.from_numpy(np.concatenate([soft for soft, _ in weights]))}
        hidden = rows[0].hidden is not None
        kept = _hidden(rows, loss) if hidden else _sparse(rows, loss) if rows[0].logprobs is None else _dense(rows)
        targets = replace(targets, **soft, **kept, temperature_T=_temperatures(rows))
        if loss.divergence == "forward_kl" and not hidden:
            floor = sum(floor_of(row, soft) for row, (soft, _) in zip(rows, weights, strict=True))
    return MicroBatch(lay_out(rows, layout), targets, floor)


def _sparse(rows: list[TargetRow], loss: LossConfig) -> dict[str, Any]:
    entries_T = np.concatenate([r.num_kept.astype(np.int64) for r in rows])
    T, K = len(entries_T), int(entries_T.max(initial=1))
    row_E = np.repeat(np.arange(T), entries_T)
    column_E = np.arange(len(row_E)) - np.repeat(np.cumsum(entries_T) - entries_T, entries_T)
    ids_TK, weights_TK = np.zeros((T, K), np.int64), np.zeros((T, K), np.float32)
    ids_E = np.concatenate([r.ids for r in rows])
    # Padding repeats an id of its position: one named there is none of the tail.
    some_T = np.flatnonzero(entries_T)
    ids_TK[some_T] = ids_E[(np.cumsum(entries_T) - entries_T)[some_T], None]
    ids_TK[row_E, column_E] = ids_E
    # Weights may sum to 1 only on average (`threshold`): to normalise them would be a bias.
    weights_TK[row_E, column_E] = np.concatenate([r.weights for r in rows])
    tail_T = np.concatenate([r.tail for r in rows])
    padded = loss.divergence != "forward_kl" and bool((entries_T < K).any())
    return {
        "ids_TK": torch.from_numpy(ids_TK),
        "weights_TK": torch.from_numpy(weights_TK),
        "tail_T": torch.from_numpy(tail_T) if len(tail_T) else None,
        "padding_TK": torch.from_numpy(np.arange(K) >= entries_T[:, None]) if padded else None,
    }


def _dense(rows: list[TargetRow]) -> dict[str, Any]:
    logp_TV = torch.from_numpy(np.concatenate([r.logprobs for r in rows if r.logprobs is not None]).astype(np.float32))
    return {"weights_TK": logp_TV.softmax(-1)}


def _hidden(rows: list[TargetRow], loss: LossConfig) -> dict[str, Any]:
    runs = []
    for teacher, of_teacher in groupby(rows, key=lambda row: row.teacher):
        own = [row.hidden for row in of_teacher if row.hidden is not None]
        runs.append((teacher, from_stored(np.concatenate(own), rows[0].precision)))
    return {"states": TeacherStates(tuple(runs), waits_for_distributions(rows[0], loss))}


def _temperatures(rows: list[TargetRow]) -> Tensor | None:
    if all(r.temperature == 1 for r in rows):
        return None
    return torch.from_numpy(np.repeat([r.temperature for r in rows], [r.targets for r in rows]).astype(np.float32))
