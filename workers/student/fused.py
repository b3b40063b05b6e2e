"""LM head, log-sum-exp, gather and gradient in chunks of tokens: the [tokens, vocabulary] matrix never exists.

The loss of a token with weights w over ids (sum of weights m) and logits z = W h + b is

    m logsumexp(z) - sum_i w_i z_i,        gradient in z:  m softmax(z) - w

With w the teacher's distribution this is the cross-entropy of the student under the teacher: forward KL plus the
teacher's entropy (Hinton et al. 2015; sparse form as in arXiv 2503.16870, section 3). With a sampled w whose
expectation is the distribution, loss and gradient are unbiased, because both are linear in w. With w one at the
realised token it is plain cross-entropy.

With a tail of mass a, the K ids with a weight and all others taken as one make K + 1 outcomes, and the loss is
- sum_K w_k log q_k - a log(1 - sum_K q_k): a KL that never exceeds the full one, least at q = w on K. Its gradient in
z_j is q_j - w_j on K and q_j (1 - a / (1 - sum_K q)) beyond (where sum w + a = 1). Without the tail's term the student
would be taught to give the tail nothing.

At a temperature T the student's logits are divided by T too, and the loss is multiplied by T^2, which keeps the size
of the gradients (Hinton et al. 2015, section 2.1).

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
        ctx: Any,
        h_TD: Tensor,
        W_VD: Tensor,
        b_V: Tensor | None,
        ids_TK: Tensor | None,
        w_TK: Tensor,
        tail_T: Tensor | None,
        temperature_T: Tensor | None,
    ) -> Tensor:
        loss = h_TD.new_zeros((), dtype=torch.float32)
        dh_TD = torch.empty_like(h_TD)
        dW_VD = torch.zeros_like(W_VD)
        db_V = torch.zeros_like(b_V) if b_V is not None else None
        for start in range(0, len(h_TD), _CHUNK):
            s = slice(start, start + _CHUNK)
            z = torch.nn.functional.linear(h_TD[s], W_VD, b_V).float()
            w, tail = w_TK[s].float(), tail_T[s].float() if tail_T is not None else None
            if temperature_T is not None:
                heat = temperature_T[s].float()
                z /= heat[:, None]
                w, tail = w * heat[:, None] ** 2, tail * heat**2 if tail is not None else None
            ids = ids_TK[s] if ids_TK is not None else torch.arange(w.shape[1], device=w.device).expand(len(w), -1)
            part, dz = _loss_and_gradient(z, ids, w, tail)
            if temperature_T is not None:
                dz /= heat[:, None]
            dz, loss = dz.to(h_TD.dtype), loss + part
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
        return dh_TD * grad, dW_VD * grad, rest[0] * grad if rest else None, None, None, None, None


def _loss_and_gradient(z: Tensor, ids: Tensor, w: Tensor, tail: Tensor | None) -> tuple[Tensor, Tensor]:
    """Of the logits of a chunk of tokens, which are spent: the gradient takes their place."""
    lse, mass = torch.logsumexp(z, -1), w.sum(-1)
    loss = -(w * z.gather(1, ids)).sum()
    beyond = None
    if tail is not None:
        beyond = z.scatter(1, ids, -torch.inf)
        lse_beyond = torch.logsumexp(beyond, -1).clamp_min(-1e30)  # finite where no id is beyond
        mass, loss = mass + tail, loss - (tail * lse_beyond).sum()
        beyond.sub_(lse_beyond[:, None]).exp_().mul_(tail[:, None])
    loss += (mass * lse).sum()
    dz = z.sub_(lse[:, None]).exp_().mul_(mass[:, None]).scatter_add_(1, ids, -w)
    return loss, dz if beyond is None else dz.sub_(beyond)


def fused_cross_entropy(
    h_TD: Tensor,
    W_VD: Tensor,
    b_V: Tensor | None,
    ids_TK: Tensor | None,
    w_TK: Tensor,
    tail_T: Tensor | None = None,
    temperature_T: Tensor | None = None,
) -> Tensor:
    """Sum over tokens of the cross-entropy of softmax(W h + b) under weights `w_TK` at `ids_TK` (see the module).

    `ids_TK` None means that `w_TK` is dense over the first K ids. Padding has weight 0; where there is a tail it must
    repeat an id of its token, for every id named is outside the tail. No tail and no temperature are 0 and 1.
    """
    return FusedCrossEntropy.apply(h_TD, W_VD, b_V, ids_TK, w_TK, tail_T, temperature_T)
