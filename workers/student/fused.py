"""LM head, log-sum-exp, gather and gradient in chunks of tokens: the [tokens, vocabulary] matrix never exists.

The loss of a token with weights w over ids (sum of weights m) and logits z = W h + b is

    m logsumexp(z) - sum_i w_i z_i,        gradient in z:  m softmax(z) - w

With w the teacher's distribution this is the cross-entropy of the student under the teacher: forward KL plus the
teacher's entropy (Hinton et al. 2015; sparse form as in arXiv 2503.16870, section 3). With a sampled w whose
expectation is the distribution, loss and gradient are unbiased, because both are linear in w. With w one at the
realised token it is plain cross-entropy.

Legend: T tokens, D hidden size, V student vocabulary, K weighted ids per token (padded with weight 0).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_CHUNK = 512
"""Tokens whose logits exist at once."""


class FusedCrossEntropy(torch.autograd.Function):
    """Sum over tokens of m logsumexp(z) - <w, z>, with its gradient computed in the same pass."""

    @staticmethod
    def forward(
        ctx: Any, h_TD: Tensor, W_VD: Tensor, b_V: Tensor | None, ids_TK: Tensor | None, w_TK: Tensor
    ) -> Tensor:
        """`ids_TK` None means that `w_TK` is dense over the first K ids of the vocabulary."""
        loss = h_TD.new_zeros((), dtype=torch.float32)
        dh_TD = torch.empty_like(h_TD)
        dW_VD = torch.zeros_like(W_VD)
        db_V = torch.zeros_like(b_V) if b_V is not None else None
        for start in range(0, len(h_TD), _CHUNK):
            s = slice(start, start + _CHUNK)
            z = torch.nn.functional.linear(h_TD[s], W_VD, b_V).float()
            w = w_TK[s].float()
            ids = ids_TK[s] if ids_TK is not None else torch.arange(w.shape[1], device=w.device).expand(len(w), -1)
            lse_T, mass_T = torch.logsumexp(z, -1), w.sum(-1)
            loss += (mass_T * lse_T).sum() - (w * z.gather(1, ids)).sum()
            dz = z.sub_(lse_T[:, None]).exp_().mul_(mass_T[:, None]).scatter_add_(1, ids, -w).to(h_TD.dtype)
            dh_TD[s] = dz @ W_VD
            dW_VD.addmm_(dz.T, h_TD[s])
            if db_V is not None:
                db_V += dz.sum(0)
        ctx.save_for_backward(dh_TD, dW_VD, *([db_V] if db_V is not None else []))
        return loss

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        dh_TD, dW_VD, *rest = ctx.saved_tensors
        return dh_TD * grad, dW_VD * grad, rest[0] * grad if rest else None, None, None


def fused_cross_entropy(h_TD: Tensor, W_VD: Tensor, b_V: Tensor | None, ids_TK: Tensor | None, w_TK: Tensor) -> Tensor:
    """Sum over tokens of the cross-entropy of softmax(W h + b) under weights `w_TK` at `ids_TK` (see the module)."""
    return FusedCrossEntropy.apply(h_TD, W_VD, b_V, ids_TK, w_TK)
