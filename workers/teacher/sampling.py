"""From dense distributions to sparse targets and sampled tokens. Pure; randomness comes in as numbers.

Legend: B distributions, V vocabulary, N draws, E kept entries of all B.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class SparseTargets:
    """Kept entries of B distributions, flat."""

    entries_B: torch.Tensor
    """Entries of each distribution (int64)."""
    ids_E: torch.Tensor
    """Kept ids, ascending within a distribution (int64)."""
    counts_E: torch.Tensor
    """Their counts (int64)."""


def systematic(p_BV: torch.Tensor, draws: int, offset_B: torch.Tensor) -> SparseTargets:
    """Systematic sample of each distribution: `draws` equally spaced points with one random offset.

    count_i is floor or ceil of N p_i, the counts of a row sum to N, and E[count_i / N] = p_i for every id, however
    small (Madow 1949; error analysis in the project's notes on methods, section 2). `offset_B` is uniform in [0, 1).
    The running sum is kept in float64: in float32 the mass below 1e-7 would be lost at the end of a large vocabulary.
    """
    B, V = p_BV.shape
    cumulative_BV = p_BV.double().cumsum(-1)
    total_B1 = cumulative_BV[:, -1:]
    points_BN = (
        (torch.arange(draws, dtype=torch.float64, device=p_BV.device) + offset_B.double()[:, None]) / draws * total_B1
    )
    # (N - 1 + offset) / N can round to 1, which lies beyond the last id that has any mass.
    points_BN = torch.minimum(points_BN, torch.nextafter(total_B1, torch.zeros_like(total_B1)))
    # right=True: an id owns [sum before it, sum with it), so an id of probability 0 is never kept.
    drawn_BN = torch.searchsorted(cumulative_BV, points_BN, right=True).clamp_(max=V - 1)
    row_B1 = torch.arange(B, device=p_BV.device)[:, None]
    keys, counts_E = torch.unique_consecutive((drawn_BN + row_B1 * V).flatten(), return_counts=True)
    return SparseTargets(torch.bincount(keys // V, minlength=B), keys % V, counts_E)


def sample_token(logp_BV: torch.Tensor, uniform_B: torch.Tensor, temperature: float, top_p: float) -> torch.Tensor:
    """One token id per distribution by inverting its cumulative sum at a given uniform number [B].

    `temperature` 0 takes the most probable. `top_p` keeps the smallest set of most probable ids that reaches it.
    """
    if temperature == 0:
        return logp_BV.argmax(-1)
    p_BV = (logp_BV / temperature).double().softmax(-1)
    if top_p < 1:
        sorted_BV, order_BV = p_BV.sort(-1, descending=True)
        before_BV = sorted_BV.cumsum(-1) - sorted_BV
        p_BV = torch.zeros_like(p_BV).scatter(1, order_BV, sorted_BV.masked_fill(before_BV >= top_p, 0))
    cumulative_BV = p_BV.cumsum(-1)
    total_B1 = cumulative_BV[:, -1:]
    point_B1 = torch.minimum(
        uniform_B.double()[:, None] * total_B1, torch.nextafter(total_B1, torch.zeros_like(total_B1))
    )
    drawn_B1 = torch.searchsorted(cumulative_BV, point_B1, right=True)
    return drawn_B1[:, 0].clamp_(max=p_BV.shape[1] - 1)


def entropy(logp_BV: torch.Tensor) -> torch.Tensor:
    """Shannon entropy in nats [B]."""
    return -(logp_BV.exp() * logp_BV.clamp_min(-1e4)).sum(-1)
