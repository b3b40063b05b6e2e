"""What a scheme does to the targets and to a student's gradient, measured on the drawn samples.

The gradient is that of the head's weights, averaged over batches of positions: G = (q - t)^T h / n with the exact
distribution. A scheme with weights w on some ids gives (m q - w)^T h / n, where the factor m of a position is

    sampled schemes      sum w
    top-k with a tail    1 - a / a_q, and t - q (a / a_q) as the weights: the gradient of the KL on k + 1 outcomes,
                         a and a_q the tail's mass at teacher and student
    naive top-k          sum of the k probabilities

Legend: n positions of a batch, V vocabulary, D hidden size, E weighted ids of a batch, T all positions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import torch

from targets_bench.distributions import Distributions
from workers.targets.encoding.arrays import UnitTargets
from workers.targets.encoding.scalars import PROBABILITIES
from workers.targets.encoding.schema import StoreHeader

BATCH = 512
"""Positions of one gradient."""


@dataclass
class Weights:
    """A scheme's picture of the distributions of one batch."""

    row_E: torch.Tensor
    id_E: torch.Tensor
    weight_E: torch.Tensor
    """That stand for probabilities."""
    factor_n: torch.Tensor
    gradient_E: torch.Tensor
    """Weights and factors in the gradient."""


@dataclass
class Quality:
    """Sums over batches of one scheme."""

    positions: int = 0
    num_kept: int = 0
    squared_error: float = 0.0
    angles: list[float] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)
    gradient_VD: torch.Tensor | None = None
    """Sum over batches."""
    mean_angle: float = 0.0
    mean_norm: float = 0.0
    """Of the gradient over all batches."""

    def add_error(self, w: Weights, t_nV: torch.Tensor) -> None:
        """|w - t|^2 of a batch."""
        t_E, w_E = t_nV[w.row_E, w.id_E].double(), w.weight_E.double()
        self.positions += len(t_nV)
        self.num_kept += len(w_E)
        self.squared_error += float(t_nV.square().sum(-1).double().sum() + (w_E * (w_E - 2 * t_E)).sum())

    def add_gradient(self, sparse_VD: torch.Tensor, full_VD: torch.Tensor) -> None:
        """The gradient of one batch."""
        angle, norm = angle_and_norm(sparse_VD, full_VD)
        self.angles.append(angle)
        self.norms.append(norm)
        self.gradient_VD = sparse_VD if self.gradient_VD is None else self.gradient_VD.add_(sparse_VD)

    def finish(self, full_VD: torch.Tensor) -> None:
        """Compare the gradient over all batches, and let it go."""
        assert self.gradient_VD is not None
        self.mean_angle, self.mean_norm = angle_and_norm(self.gradient_VD, full_VD)
        self.gradient_VD = None

    @property
    def row(self) -> tuple[float, ...]:
        """Entries a position, squared error, angle (degrees) and norm ratio of a batch, and of all batches together."""
        T, angle, norm = self.positions, float(np.mean(self.angles)), float(np.mean(self.norms))
        return self.num_kept / T, self.squared_error / T, angle, norm, self.mean_angle, self.mean_norm


class Captured:
    """The weights of captured units. `naive` takes the ids of a `topk` store as if they were all."""

    def __init__(self, units: list[UnitTargets], header: StoreHeader, *, naive: bool = False) -> None:
        self._naive = naive
        self._entries_T = np.concatenate([u.num_kept for u in units]).astype(np.int64)
        self._at = np.concatenate([[0], np.cumsum(self._entries_T)])
        self._ids_E = np.concatenate([u.ids for u in units]).astype(np.int64)
        counts_E = np.concatenate([u.counts for u in units])
        self._weights_E = header.weights(self._entries_T, counts_E, np.zeros((len(self._entries_T), 0), np.uint16))
        self._tail_T = PROBABILITIES[np.concatenate([u.tail for u in units])].astype(np.float32)

    def weights(self, s: slice, q_nV: torch.Tensor) -> Weights:
        """Those of the positions of a batch at which the student's distributions are `q_nV`."""
        e = slice(self._at[s.start], self._at[s.stop])
        row_E = torch.from_numpy(np.repeat(np.arange(s.stop - s.start), self._entries_T[s]))
        id_E, weight_E = torch.from_numpy(self._ids_E[e]), torch.from_numpy(self._weights_E[e])
        if self._naive or not len(self._tail_T):
            return Weights(row_E, id_E, weight_E, torch.zeros(len(q_nV)).index_add_(0, row_E, weight_E), weight_E)
        q_E = q_nV[row_E, id_E]
        beyond_n = q_nV.index_put((row_E, id_E), torch.zeros(())).sum(-1)
        share_n = (torch.from_numpy(self._tail_T[s]) / beyond_n).nan_to_num(0, 0)
        return Weights(row_E, id_E, weight_E, 1 - share_n, weight_E - q_E * share_n[row_E])


@torch.no_grad()
def measure(
    distributions: Distributions, schemes: dict[str, Captured], gradients: int
) -> tuple[dict[str, Quality], float]:
    """Each scheme on all positions, with `gradients` batches from all over them for the gradient; and the mean KL of
    the student to the teacher in nats."""
    T = len(distributions.tokens_T)
    found, kl = {name: Quality() for name in schemes}, 0.0
    batches = [slice(i, min(i + BATCH, T)) for i in range(0, T, BATCH)]
    whole = batches[: max(1, T // BATCH)]
    chosen = {whole[int(i)].start for i in np.linspace(0, len(whole) - 1, min(gradients, len(whole)))}
    full_VD = torch.zeros(distributions.vocabulary, distributions.student_TD.shape[1])
    for s in batches:
        logp_nV = distributions.teacher_logits(s).float().log_softmax(-1)
        logq_nV = distributions.student_logits(s).float().log_softmax(-1)
        kl += float((logp_nV.exp() * (logp_nV - logq_nV)).sum()) / T
        q_nV = logq_nV.exp()
        pictures = {name: scheme.weights(s, q_nV) for name, scheme in schemes.items()}
        t_nV = logp_nV.exp_()
        for name, w in pictures.items():
            found[name].add_error(w, t_nV)
        if s.start in chosen:
            full_VD += _compare_gradients(found, pictures, t_nV, q_nV, distributions.student_TD[s])
    for quality in found.values():
        quality.finish(full_VD)
    return found, kl


def angle_and_norm(a: torch.Tensor, b: torch.Tensor) -> tuple[float, float]:
    """Angle between a and b in degrees, and |a| / |b|."""
    norm = float(a.norm() / b.norm())
    cosine = float((a * b).sum(-1).double().sum() / b.norm() ** 2) / norm
    return math.degrees(math.acos(min(1.0, max(-1.0, cosine)))), norm


def _compare_gradients(
    found: dict[str, Quality], pictures: dict[str, Weights], t_nV: torch.Tensor, q_nV: torch.Tensor, h_nD: torch.Tensor
) -> torch.Tensor:
    """Every scheme's gradient of one batch; returns the full one."""
    student_VD = q_nV.T @ h_nD
    full_VD = student_VD - t_nV.T @ h_nD
    for name, w in pictures.items():
        found[name].add_gradient(_gradient(w, q_nV, h_nD, student_VD), full_VD)
    return full_VD


def _gradient(w: Weights, q_nV: torch.Tensor, h_nD: torch.Tensor, student_VD: torch.Tensor) -> torch.Tensor:
    whole = bool((w.factor_n - 1).abs().max() < 1e-5)
    gradient_VD = student_VD.clone() if whole else q_nV.T @ (h_nD * w.factor_n[:, None])
    return gradient_VD.index_add_(0, w.id_E, h_nD[w.row_E] * -w.gradient_E[:, None])
