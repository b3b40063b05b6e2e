"""From rows of the target store to the tensors of one micro-batch.

Legend: B texts, S tokens of the longest, T target positions of all B, K most entries at a position, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from workers.student.config import LossConfig
from workers.targets.reader import TargetRow


@dataclass(frozen=True)
class MicroBatch:
    """What one forward pass of a worker sees."""

    input_BS: Tensor
    mask_BS: Tensor
    positions_T: Tensor
    """Flat indices (b * S + s) of the tokens whose next token is a target. A position whose label is weighed apart
    from its distribution comes twice."""
    ids_TK: Tensor | None
    """Ids with a weight; None where the weights are dense."""
    weights_TK: Tensor
    """Sum over k, with the tail, is kl + ce at a target position (on average, where the scheme is `threshold`)."""
    tail_T: Tensor | None = None
    """Weight of all ids that are not in `ids_TK` as one; None where there is no such outcome."""
    temperature_T: Tensor | None = None
    """Of the distributions; None where all are 1."""

    @property
    def targets(self) -> int:
        return len(self.positions_T)

    @property
    def tensors(self) -> tuple[Tensor | None, ...]:
        """In the order in which `DistillationModel` takes them."""
        positions = (self.input_BS, self.mask_BS, self.positions_T)
        return (*positions, self.ids_TK, self.weights_TK, self.tail_T, self.temperature_T)


def micro_batches(rows: list[TargetRow], loss: LossConfig, most_tokens: int) -> list[MicroBatch]:
    """Rows of similar length together, at most `most_tokens` tokens each with padding (or one row)."""
    groups: list[list[TargetRow]] = []
    for row in sorted(rows, key=lambda r: (-len(r.tokens), r.prompt_id)):
        if not groups or len(groups[-1][0].tokens) * (len(groups[-1]) + 1) > most_tokens:
            groups.append([])
        groups[-1].append(row)
    return [collate(group, loss) for group in groups]


def collate(rows: list[TargetRow], loss: LossConfig) -> MicroBatch:
    """One micro-batch. The last token of a text predicts nothing, so it is no input."""
    S = max(len(r.tokens) for r in rows) - 1
    input_BS = np.zeros((len(rows), S), np.int64)
    mask_BS = np.zeros((len(rows), S), np.int64)
    for b, row in enumerate(rows):
        n = len(row.tokens) - 1
        input_BS[b, :n] = row.tokens[:-1]
        mask_BS[b, :n] = 1
    positions_T = np.concatenate([b * S + np.arange(r.start - 1, len(r.tokens) - 1) for b, r in enumerate(rows)])
    labels_T = np.concatenate([r.tokens[r.start :].astype(np.int64) for r in rows])
    batch = MicroBatch(
        torch.from_numpy(input_BS),
        torch.from_numpy(mask_BS),
        torch.from_numpy(positions_T),
        torch.from_numpy(labels_T[:, None]),
        torch.full((len(labels_T), 1), loss.ce),
    )
    if not loss.kl:
        return batch
    weigh = _sparse if rows[0].logprobs is None else _dense
    # A label is a target at temperature 1 with no tail: where the distribution is another kind, it stands apart.
    apart = bool(loss.ce) and any(len(r.tail) or r.temperature != 1 for r in rows)
    soft = weigh(batch, rows, labels_T, loss.kl, 0.0 if apart else loss.ce)
    return _with_labels(soft, labels_T, loss.ce) if apart else soft


def idle_batch(batch: MicroBatch) -> MicroBatch:
    """The same work at weight 0, for a worker whose peers have one more micro-batch."""
    tail_T = torch.zeros_like(batch.tail_T) if batch.tail_T is not None else None
    return replace(batch, weights_TK=torch.zeros_like(batch.weights_TK), tail_T=tail_T)


def entropy_floor(rows: list[TargetRow]) -> float:
    """Mean over target positions of the least that the cross-entropy of the loss can be: it less this is the KL.

    That is the teacher's entropy; with a tail, that of the kept ids and the tail as one; times T^2 as the loss is.
    """
    return float(np.concatenate([_entropy(r) * r.temperature**2 for r in rows]).mean())


def _entropy(row: TargetRow) -> np.ndarray:
    if not len(row.tail):
        return row.entropy.astype(np.float64)
    outcomes_E = np.append(row.weights, row.tail).astype(np.float64)
    owner_E = np.append(np.repeat(np.arange(row.targets), row.entries), np.arange(row.targets))
    surprise_E = -np.log(outcomes_E, out=np.zeros_like(outcomes_E), where=outcomes_E > 0)
    return np.bincount(owner_E, outcomes_E * surprise_E, minlength=row.targets)


def _sparse(batch: MicroBatch, rows: list[TargetRow], labels_T: np.ndarray, kl: float, ce: float) -> MicroBatch:
    entries_T = np.concatenate([r.entries.astype(np.int64) for r in rows])
    K = int(entries_T.max(initial=0)) + (1 if ce else 0)
    row_E = np.repeat(np.arange(len(labels_T)), entries_T)
    column_E = np.arange(len(row_E)) - np.repeat(np.cumsum(entries_T) - entries_T, entries_T)
    ids_TK = np.zeros((len(labels_T), K), np.int64)
    weights_TK = np.zeros((len(labels_T), K), np.float32)
    ids_TK[row_E, column_E] = np.concatenate([r.ids for r in rows])
    # Weights may sum to 1 only on average (`threshold`): to normalise them would be a bias.
    weights_TK[row_E, column_E] = np.concatenate([r.weights for r in rows]) * kl
    if ce:
        ids_TK[:, -1], weights_TK[:, -1] = labels_T, ce
    tail_T = np.concatenate([r.tail for r in rows]) * kl
    return replace(
        batch,
        ids_TK=torch.from_numpy(ids_TK),
        weights_TK=torch.from_numpy(weights_TK),
        tail_T=torch.from_numpy(tail_T) if len(tail_T) else None,
        temperature_T=_temperatures(rows),
    )


def _dense(batch: MicroBatch, rows: list[TargetRow], labels_T: np.ndarray, kl: float, ce: float) -> MicroBatch:
    logp_TV = torch.from_numpy(np.concatenate([r.logprobs for r in rows if r.logprobs is not None]).astype(np.float32))
    weights_TV = logp_TV.softmax(-1) * kl
    if ce:
        weights_TV.scatter_add_(1, torch.from_numpy(labels_T[:, None]), torch.full((len(labels_T), 1), ce))
    return replace(batch, ids_TK=None, weights_TK=weights_TV, temperature_T=_temperatures(rows))


def _temperatures(rows: list[TargetRow]) -> Tensor | None:
    if all(r.temperature == 1 for r in rows):
        return None
    return torch.from_numpy(np.repeat([r.temperature for r in rows], [r.targets for r in rows]).astype(np.float32))


def _with_labels(soft: MicroBatch, labels_T: np.ndarray, ce: float) -> MicroBatch:
    """The batch with every position once more, for its label alone."""
    T, K = soft.weights_TK.shape
    labels_T1 = torch.from_numpy(labels_T[:, None])
    hard_TK = torch.zeros(T, K)
    hard_TK.scatter_(1, labels_T1 if soft.ids_TK is None else torch.zeros_like(labels_T1), ce)
    tail_T, temperature_T = soft.tail_T, soft.temperature_T
    return replace(
        soft,
        positions_T=soft.positions_T.repeat(2),
        ids_TK=torch.cat([soft.ids_TK, labels_T1.expand(-1, K)]) if soft.ids_TK is not None else None,
        weights_TK=torch.cat([soft.weights_TK, hard_TK]),
        tail_T=torch.cat([tail_T, torch.zeros(T)]) if tail_T is not None else None,
        temperature_T=torch.cat([temperature_T, torch.ones(T)]) if temperature_T is not None else None,
    )
