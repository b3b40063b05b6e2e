"""From dense distributions to sparse targets. Pure; randomness comes in as numbers in [0, 1).

A sampled scheme writes a distribution as whole counts of a unit of mass: id i weighs count_i * unit, and
E[count_i * unit] = t_i for every id, however small. With unit u and draws N:

    multinomial   u = 1/N        N independent draws                       E|w - t|^2 = (1 - sum t^2) / N
    systematic    u = 1/N        N equally spaced points, one offset       sum f (1 - f) / N^2,  f = frac(N t)
    threshold     u = 1/(16 N)   ids of 1/N and more exactly (to a unit,   sum over t < 1/N of t (1/N - t)
                                 rounded without bias), the rest with weight 1/N or nothing

Of ids that were taken out of the probs before, nothing is drawn: multinomial and systematic then draw from what is
left, and their unit is a share of that.

Sources: sparse logit sampling, arXiv 2503.16870 (multinomial); Madow 1949 (systematic).

Legend: B distributions, V vocabulary, N draws, E kept entries of all B, K ids of the head.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from workers.targets.encoding.schema import EXACT_STEPS
from workers.teacher.sampling.blocked_probs import BlockedProbs


@dataclass(frozen=True)
class SparseTargets:
    """Kept entries of B distributions, flat."""

    entries_B: torch.Tensor
    """Entries of each distribution (int64)."""
    ids_E: torch.Tensor
    """Kept ids, ascending within a distribution (int64)."""
    counts_E: torch.Tensor
    """Their counts of the scheme's unit of mass (int64)."""


@dataclass(frozen=True)
class TopK:
    """The most probable ids of B distributions, and what is left to all others."""

    ids_BK: torch.Tensor
    """Ascending (int64)."""
    probability_BK: torch.Tensor
    tail_B: torch.Tensor
    """Mass beyond the K (float64)."""


@dataclass(frozen=True)
class Head:
    """The ids of each distribution that `threshold` keeps exactly."""

    row_H: torch.Tensor
    id_H: torch.Tensor
    share_H: torch.Tensor
    """Their probabilities in units of mass (float64)."""


def systematic(probs: BlockedProbs, draws: int, offset_B: torch.Tensor) -> SparseTargets:
    """Counts are floor or ceil of N t_i, and those of a distribution sum to N. `offset_B` is uniform."""
    return _counted(probs, _spaced(probs, draws, offset_B))


def multinomial(probs: BlockedProbs, uniform_BN: torch.Tensor) -> SparseTargets:
    """N independent draws of each distribution, one per uniform number."""
    points_BN = uniform_BN.to(probs.total_B).sort(-1).values * probs.total_B[:, None]
    return _counted(probs, probs.find(points_BN))


def take_head(probs: BlockedProbs, draws: int) -> Head:
    """Take the ids of probability 1/N and more out of the probs, for `threshold`."""
    tau_B1 = probs.whole_B[:, None] / draws
    row_H, id_H = (probs.mass_BV >= tau_B1.float()).nonzero(as_tuple=True)
    share_H = probs.mass_BV[row_H, id_H].double() / tau_B1[row_H, 0] * EXACT_STEPS
    probs.remove(row_H, id_H)
    return Head(row_H, id_H, share_H)


def threshold(
    probs: BlockedProbs, head: Head, draws: int, offset_B: torch.Tensor, coin_B: torch.Tensor
) -> SparseTargets:
    """The head exactly, the other ids by systematic sampling at weight 1/N.

    `offset_B` and `coin_B` are uniform and independent; the coin decides the rounding of the head. Weights sum to 1
    only on average, so a loss has to keep the factor.
    """
    row_H, device = head.row_H, head.row_H.device
    # One coin a distribution, shifted along its head by the golden ratio: uniform for each id, spread over them.
    first_B = torch.searchsorted(row_H, torch.arange(len(offset_B), device=device))
    shift_H = (torch.arange(len(row_H), device=device) - first_B[row_H]) * 0.618034
    count_H = (head.share_H + (coin_B.double()[row_H] + shift_H) % 1).floor().long()
    # Points 1/N apart from a random start; those beyond the tail's mass draw nothing.
    points_BN = (torch.arange(draws, device=device) + offset_B.double()[:, None]) * (probs.whole_B[:, None] / draws)
    row_T, point_T = (points_BN < probs.total_B[:, None]).nonzero(as_tuple=True)
    id_T = probs.find(points_BN)[row_T, point_T]
    row_E, id_E = torch.cat([row_H, row_T]), torch.cat([head.id_H, id_T])
    count_E = torch.cat([count_H, torch.full_like(id_T, EXACT_STEPS)])
    order = torch.argsort(row_E * probs.vocabulary + id_E)
    return SparseTargets(torch.bincount(row_E, minlength=len(offset_B)), id_E[order], count_E[order])


def top_k(probs: BlockedProbs, k: int) -> TopK:
    """The k most probable ids with their probabilities, and the tail's. Biased, as any top-k is. Modifies `probs` in
    place.

    The tail is summed for itself: 1 minus the head would be noise where the head is nearly all.
    """
    ids_BK = probs.mass_BV.topk(min(k, probs.vocabulary), -1, sorted=False).indices.sort(-1).values
    probability_BK = probs.mass_BV.gather(1, ids_BK).double() / probs.whole_B[:, None]
    probs.remove(torch.arange(len(ids_BK), device=ids_BK.device)[:, None].expand_as(ids_BK), ids_BK)
    return TopK(ids_BK, probability_BK, probs.total_B / probs.whole_B)


def _spaced(probs: BlockedProbs, draws: int, offset_B: torch.Tensor) -> torch.Tensor:
    steps_N = torch.arange(draws, dtype=torch.float64, device=offset_B.device)
    return probs.find((steps_N + offset_B.double()[:, None]) / draws * probs.total_B[:, None])


def _counted(probs: BlockedProbs, drawn_BN: torch.Tensor) -> SparseTargets:
    """Ascending draws as entries with counts."""
    B, V = len(drawn_BN), probs.vocabulary
    row_B1 = torch.arange(B, device=drawn_BN.device)[:, None]
    keys, counts_E = torch.unique_consecutive((drawn_BN + row_B1 * V).flatten(), return_counts=True)
    return SparseTargets(torch.bincount(keys // V, minlength=B), keys % V, counts_E)
