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

What is kept has equally many places for each distribution, used or not, so that no device has to be asked how many
entries there are.

Legend: B distributions, V vocabulary, N draws, E places of a distribution, K ids of the head, H ids of all heads.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from workers.targets.encoding.schema import EXACT_STEPS
from workers.teacher.sampling.blocked_probs import BlockedProbs


@dataclass(frozen=True)
class SparseTargets:
    """Kept entries of B distributions."""

    ids_BE: torch.Tensor
    """Kept ids, ascending (int32). One may have several places, next to each other; V is none."""
    counts_BE: torch.Tensor | None = None
    """What each place counts of the scheme's unit of mass (int32); None: one each."""


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
    """The ids of each distribution that `threshold` keeps exactly, and places that are left over."""

    row_H: torch.Tensor
    """Their distributions, ascending; B of a place that is left over."""
    id_H: torch.Tensor
    share_H: torch.Tensor
    """Their probabilities in units of mass (float64)."""


def systematic(probs: BlockedProbs, draws: int, offset_B: torch.Tensor) -> SparseTargets:
    """Counts are floor or ceil of N t_i, and those of a distribution sum to N. `offset_B` is uniform."""
    steps_N = torch.arange(draws, dtype=torch.float64, device=offset_B.device)
    points_BN = (steps_N + offset_B.double()[:, None]) / draws * probs.total_B[:, None]
    return SparseTargets(probs.find(points_BN).int())


def multinomial(probs: BlockedProbs, uniform_BN: torch.Tensor) -> SparseTargets:
    """N independent draws of each distribution, one per uniform number."""
    points_BN = uniform_BN.to(probs.total_B).sort(-1).values * probs.total_B[:, None]
    return SparseTargets(probs.find(points_BN).int())


def take_head(probs: BlockedProbs, draws: int) -> Head:
    """Take the ids of probability 1/N and more out of the probs, for `threshold`."""
    tau_B1 = probs.whole_B[:, None] / draws
    B = len(tau_B1)
    head_BV = probs.mass_BV >= tau_B1.float()
    # No more than `draws` of a distribution can be there.
    row_H, id_H = torch.nonzero_static(head_BV, size=B * draws, fill_value=-1).T
    share_H = probs.mass_BV[row_H, id_H].double() / tau_B1[row_H, 0] * EXACT_STEPS
    probs.remove_marked(head_BV)
    return Head(torch.where(row_H < 0, B, row_H), id_H, share_H)


def threshold(
    probs: BlockedProbs, head: Head, draws: int, offset_B: torch.Tensor, coin_B: torch.Tensor
) -> SparseTargets:
    """The head exactly, the other ids by systematic sampling at weight 1/N.

    `offset_B` and `coin_B` are uniform and independent; the coin decides the rounding of the head. Weights sum to 1
    only on average, so a loss has to keep the factor.
    """
    B, V, device = len(offset_B), probs.vocabulary, head.row_H.device
    there_H, row_H = head.row_H < B, head.row_H.clamp_max(B - 1)
    # One coin a distribution, shifted along its head by the golden ratio: uniform for each id, spread over them.
    first_B = torch.searchsorted(head.row_H, torch.arange(B, device=device))
    place_H = torch.arange(len(row_H), device=device) - first_B[row_H]
    count_H = (head.share_H + (coin_B.double()[row_H] + place_H * 0.618034) % 1).floor().int()
    # Points 1/N apart from a random start; those beyond the tail's mass draw nothing.
    points_BN = (torch.arange(draws, device=device) + offset_B.double()[:, None]) * (probs.whole_B[:, None] / draws)
    drawn_BN = points_BN < probs.total_B[:, None]
    # The head's places, the tail's, and behind them one for what is left over.
    at_H = torch.where(there_H, row_H * draws + place_H, B * draws)
    head_BN, exact_BN = (
        torch.full((B * draws + 1,), none, dtype=torch.int32, device=device).scatter_(0, at_H, values)[:-1].view(B, -1)
        for none, values in ((V, head.id_H.int()), (0, count_H))
    )
    tail_BN = torch.where(drawn_BN, probs.find(points_BN).int(), V)
    ids_BE, order_BE = torch.cat([head_BN, tail_BN], 1).sort(-1)
    return SparseTargets(ids_BE, torch.cat([exact_BN, drawn_BN.int() * EXACT_STEPS], 1).gather(1, order_BE))


def top_k(probs: BlockedProbs, k: int) -> TopK:
    """The k most probable ids with their probabilities, and the tail's. Biased, as any top-k is. Modifies `probs` in
    place.

    The tail is summed for itself: 1 minus the head would be noise where the head is nearly all.
    """
    ids_BK = probs.mass_BV.topk(min(k, probs.vocabulary), -1, sorted=False).indices.sort(-1).values
    probability_BK = probs.mass_BV.gather(1, ids_BK).double() / probs.whole_B[:, None]
    probs.remove(ids_BK)
    return TopK(ids_BK, probability_BK, probs.total_B / probs.whole_B)
