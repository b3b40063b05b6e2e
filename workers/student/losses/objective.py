"""From a loss as configured to functions of tensors and weights of positions."""

from __future__ import annotations

from functools import partial

import numpy as np

from workers.student.losses import divergences as losses
from workers.student.losses.config import LossConfig
from workers.student.losses.fused import Divergence
from workers.targets.reader import TargetRow


def divergence_of(loss: LossConfig) -> Divergence | None:
    """The configured divergence with its parameters; None for the forward KL, whose gradient needs no more than the
    weights themselves."""
    return {
        "forward_kl": None,
        "reverse_kl": losses.reverse_kl,
        "jsd": partial(losses.generalized_jsd, beta=loss.beta, normalised=loss.normalised),
        "skew_kl": partial(losses.skew_kl, alpha=loss.skew),
        "reverse_skew_kl": partial(losses.reverse_skew_kl, alpha=loss.skew),
        "total_variation": losses.total_variation,
        "alpha_beta": partial(losses.alpha_beta, alpha=loss.alpha_beta[0], beta=loss.alpha_beta[1]),
    }[loss.divergence]


def position_weights(row: TargetRow, loss: LossConfig, kl: float, ce: float) -> tuple[np.ndarray, np.ndarray]:
    """What the divergence and the cross-entropy weigh at each target position of a row [T], as float32."""
    soft_T = np.full(row.targets, kl, np.float32)
    hard_T = np.full(row.targets, ce, np.float32)
    if loss.weighting != "constant" and not waits_for_distributions(row, loss):
        share_T = _soft_share(row, loss).astype(np.float32)
        soft_T, hard_T = soft_T * share_T, hard_T * (1 - share_T)
    if loss.temperature_squared:
        soft_T = soft_T * np.float32(row.temperature**2)
    return soft_T, hard_T


def waits_for_distributions(row: TargetRow, loss: LossConfig) -> bool:
    """Whether what positions weigh is to be shared out by a confidence that hidden states alone do not tell."""
    return loss.weighting == "confidence" and row.hidden is not None


def floor_of(row: TargetRow, soft_T: np.ndarray) -> float:
    """The least that a row's soft part can be as a cross-entropy: it less this is the KL.

    That is the teacher's entropy; with a tail, that of the kept ids and the tail as one outcome.
    """
    return float((soft_T.astype(np.float64) * _entropy(row)).sum())


def _soft_share(row: TargetRow, loss: LossConfig) -> np.ndarray:
    if loss.weighting == "entropy":
        return np.minimum(row.entropy / loss.entropy_scale, 1)
    if row.logprobs is not None:
        return 1 - np.exp(row.logprobs.astype(np.float32).max(-1))
    firsts = np.concatenate([[0], np.cumsum(row.num_kept[:-1], dtype=np.int64)])
    return 1 - np.maximum.reduceat(row.weights, firsts) if len(row.weights) else np.zeros(row.targets)


def _entropy(row: TargetRow) -> np.ndarray:
    if not len(row.tail):
        return row.entropy.astype(np.float64)
    outcomes_E = np.append(row.weights, row.tail).astype(np.float64)
    owner_E = np.append(np.repeat(np.arange(row.targets), row.num_kept), np.arange(row.targets))
    surprise_E = -np.log(outcomes_E, out=np.zeros_like(outcomes_E), where=outcomes_E > 0)
    return np.bincount(owner_E, outcomes_E * surprise_E, minlength=row.targets)
