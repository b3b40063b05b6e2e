"""From rows of the target store to the tensors of one micro-batch.

Legend: B texts, S tokens of the longest, T target positions of all B, K most entries at a position, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from workers.student.config import LossConfig
from workers.targets.reader import TargetRow


@dataclass(frozen=True)
class MicroBatch:
    """What one forward pass of a worker sees."""

    input_BS: torch.Tensor
    mask_BS: torch.Tensor
    positions_T: torch.Tensor
    """Flat indices (b * S + s) of the tokens whose next token is a target."""
    ids_TK: torch.Tensor | None
    """Ids with a weight; None where the weights are dense."""
    weights_TK: torch.Tensor
    """Sum over k is kl + ce at a target position (on average, where the scheme is `threshold`), 0 at padding."""

    @property
    def targets(self) -> int:
        return len(self.positions_T)


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
    ids, weights = _dense(rows, labels_T, loss) if rows[0].logprobs is not None else _sparse(rows, labels_T, loss)
    return MicroBatch(
        torch.from_numpy(input_BS), torch.from_numpy(mask_BS), torch.from_numpy(positions_T), ids, weights
    )


def idle_batch(batch: MicroBatch) -> MicroBatch:
    """The same work at weight 0, for a worker whose peers have one more micro-batch."""
    return MicroBatch(
        batch.input_BS, batch.mask_BS, batch.positions_T, batch.ids_TK, torch.zeros_like(batch.weights_TK)
    )


def _sparse(rows: list[TargetRow], labels_T: np.ndarray, loss: LossConfig) -> tuple[torch.Tensor, torch.Tensor]:
    entries_T = (
        np.concatenate([r.entries.astype(np.int64) for r in rows]) if loss.kl else np.zeros(len(labels_T), np.int64)
    )
    K = int(entries_T.max(initial=0)) + (1 if loss.ce else 0)
    ids_TK = np.zeros((len(labels_T), K), np.int64)
    weights_TK = np.zeros((len(labels_T), K), np.float32)
    if loss.kl:
        row_E = np.repeat(np.arange(len(labels_T)), entries_T)
        column_E = np.arange(len(row_E)) - np.repeat(np.cumsum(entries_T) - entries_T, entries_T)
        counts_E = np.concatenate([r.counts for r in rows]).astype(np.float32)
        ids_TK[row_E, column_E] = np.concatenate([r.ids for r in rows])
        # Weights may sum to 1 only on average (`threshold`): to normalise them would be a bias.
        weights_TK[row_E, column_E] = counts_E * (loss.kl * rows[0].unit)
    if loss.ce:
        ids_TK[:, -1], weights_TK[:, -1] = labels_T, loss.ce
    return torch.from_numpy(ids_TK), torch.from_numpy(weights_TK)


def _dense(rows: list[TargetRow], labels_T: np.ndarray, loss: LossConfig) -> tuple[torch.Tensor | None, torch.Tensor]:
    if not loss.kl:
        return torch.from_numpy(labels_T[:, None]), torch.full((len(labels_T), 1), loss.ce)
    logp_TV = torch.from_numpy(np.concatenate([r.logprobs for r in rows if r.logprobs is not None]).astype(np.float32))
    weights_TV = logp_TV.softmax(-1) * loss.kl
    if loss.ce:
        weights_TV.scatter_add_(1, torch.from_numpy(labels_T[:, None]), torch.full((len(labels_T), 1), loss.ce))
    return None, weights_TV
