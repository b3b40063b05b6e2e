"""Which token an answer goes on with. Pure; randomness comes in as numbers in [0, 1).

Legend: B distributions, V vocabulary.
"""

from __future__ import annotations

import torch

from workers.teacher.sampling.blocked_probs import BlockedProbs


def next_token(probs: BlockedProbs, uniform_B: torch.Tensor, temperature: float, top_p: float) -> torch.Tensor:
    """One token id per distribution by inverting its running sum at a given uniform number [B].

    `temperature` 0 takes the most probable. `top_p` keeps the smallest set of most probable ids that reaches it.
    """
    if temperature == 0:
        return probs.mass_BV.argmax(-1)
    if temperature != 1 or top_p < 1:
        probs = BlockedProbs(_nucleus(probs.log_probabilities() / temperature, top_p))
    return probs.find(uniform_B.double()[:, None] * probs.total_B[:, None])[:, 0]


def _nucleus(logits_BV: torch.Tensor, top_p: float) -> torch.Tensor:
    if top_p >= 1:
        return logits_BV
    sorted_BV, order_BV = logits_BV.double().softmax(-1).sort(-1, descending=True)
    outside_BV = sorted_BV.cumsum(-1) - sorted_BV >= top_p
    return logits_BV.masked_fill(torch.zeros_like(outside_BV).scatter(1, order_BV, outside_BV), -torch.inf)
