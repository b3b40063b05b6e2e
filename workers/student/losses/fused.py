"""LM head, log-sum-exp, gather and gradient in chunks of tokens: the [tokens, vocabulary] matrix never exists.

With g the gradient of a position's loss in log q, that in the logits is g - q sum(g), and where all ids beyond the kept
ones are one outcome of gradient h, also h times each of them's part in it. So a chunk of logits needs a log-sum-exp, a
gather at the kept ids, g on those (losses.py), and what takes the place of the logits is their gradient.

- Linear losses (forward KL, cross-entropy) have g = -w without further work.
- With a tail of mass a, the K kept ids and all others as one make K + 1 outcomes. The forward KL's gradient is then
  q_j - w_j on K and q_j (1 - a / (1 - sum_K q)) beyond. Without that term the student would be trained to give the
  tail nothing.
- Of hidden states the distributions are made here too, by their teacher's head, of the same chunk of tokens.
- At a temperature T the student's logits are divided by T too. The factor T^2 that keeps the size of gradients (Hinton
  et al. 2015, section 2.1) is in the positions' weights (batching.py).

Legend: T tokens, D hidden size, V student vocabulary, K kept ids of a token.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from functools import cache
from typing import Any

import torch
from torch import Tensor

from workers.logit_map import LogitMap
from workers.student.losses.config import chunk_tokens
from workers.student.losses.divergences import cross_entropy
from workers.student.losses.teacher_states import TeacherStates
from workers.targets.heads import TeacherHead

Divergence = Callable[[Tensor, Tensor], Tensor]
"""(p_TE, logq_TE) -> [T], one of losses.py with its parameters."""


@dataclass(frozen=True)
class HeadTargets:
    """What the logits of T positions are compared with, and what each part of the loss weighs there."""

    labels_T: Tensor
    hard_T: Tensor
    """Weight of the cross-entropy of the label."""
    soft_T: Tensor | None = None
    """Weight of the divergence; None where there is none at all."""
    ids_TK: Tensor | None = None
    """Kept ids; None where the weights are dense, over the first K ids. No id comes twice at a position, except in
    padding of weight 0, which repeats one of the position's."""
    weights_TK: Tensor | None = None
    """The teacher's probabilities at those ids, or a sample of them."""
    tail_T: Tensor | None = None
    """Probability of all ids that are not in `ids_TK` as one outcome; None where there is no such outcome."""
    padding_TK: Tensor | None = None
    """True at columns that are padding; None where there are none, or where they make no difference."""
    temperature_T: Tensor | None = None
    """At which the distributions were taken; None where all are 1."""
    entropy_T: Tensor | None = None
    """Of the distributions: what the linear loss is to be less, so that it is the KL. None where it is a cross-entropy
    (MicroBatch.floor)."""
    states: TeacherStates | None = None
    """What the distributions are made of, chunk by chunk; None where they are kept."""

    def map(self, change: Callable[[Tensor], Tensor]) -> HeadTargets:
        """The same with every tensor changed."""
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "states"}
        changed = {name: change(v) if v is not None else None for name, v in values.items()}
        return HeadTargets(**changed, states=self.states.map(change) if self.states is not None else None)

    def with_heads(self, heads: Mapping[str, TeacherHead]) -> HeadTargets:
        """The same with the heads, by teacher, that make distributions of hidden states."""
        return self if self.states is None else replace(self, states=replace(self.states, heads=heads))

    def part(self, tokens: slice, dtype: torch.dtype) -> HeadTargets:
        """Those of some of the tokens, numbers as `dtype`, and distributions in place of hidden states."""
        kept = replace(self, states=None)
        part = kept.map(lambda t: t[tokens].to(dtype) if t.is_floating_point() else t[tokens])
        return part if self.states is None else _made(part, self.states.part(tokens), dtype)


def _made(part: HeadTargets, states: TeacherStates, dtype: torch.dtype) -> HeadTargets:
    """Targets with the distributions of their hidden states, and the weights that wait for them."""
    assert part.soft_T is not None
    p_TV, entropy_T = states.distributions(part.temperature_T)
    part = replace(part, weights_TK=p_TV.to(dtype), entropy_T=entropy_T.to(dtype))
    if not states.confidence:
        return part
    share_T = 1 - p_TV.amax(-1).to(dtype)
    return replace(part, soft_T=part.soft_T * share_T, hard_T=part.hard_T * (1 - share_T))


def fused_loss(
    h_TD: Tensor,
    W_VD: Tensor,
    b_V: Tensor | None,
    targets: HeadTargets,
    divergence: Divergence | None = None,
    logit_map: LogitMap | None = None,
    gpu_share: float = 1.0,
) -> Tensor:
    """Sum over tokens of soft * divergence(targets, softmax(W h + b)) + hard * cross-entropy; float32 scalar.

    `divergence` None is the linear one, `cross_entropy` (losses.py). `gpu_share` is the part of its GPU that this
    process has.
    """
    return _FusedLoss.apply(h_TD, W_VD, b_V, targets, divergence, logit_map or LogitMap(), gpu_share)


def loss_of_logits(
    z_TV: Tensor, targets: HeadTargets, divergence: Divergence | None = None, gpu_share: float = 1.0
) -> Tensor:
    """The same loss of logits that a model has made itself."""
    return _FusedLoss.apply(z_TV, None, None, targets, divergence, LogitMap(), gpu_share)


@cache
def _gpu_memory(device: torch.device) -> int:
    """Bytes of a GPU; 0 of other devices."""
    return torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else 0


class _FusedLoss(torch.autograd.Function):
    """The loss, with its gradients computed in the same pass and kept for the backward one."""

    @staticmethod
    def forward(
        ctx: Any,
        h_TD: Tensor,
        W_VD: Tensor | None,
        b_V: Tensor | None,
        targets: HeadTargets,
        divergence: Divergence | None,
        logit_map: LogitMap,
        gpu_share: float,
    ) -> Tensor:
        wants_h, wants_W, wants_b = ctx.needs_input_grad[:3]
        loss = torch.zeros((), dtype=_summing(h_TD.dtype), device=h_TD.device)
        dh_TD = torch.empty_like(h_TD) if wants_h else None
        # Chunks add up: in bfloat16 the small ones would be lost.
        dW_VD = torch.zeros_like(W_VD, dtype=_summing(W_VD.dtype)) if W_VD is not None and wants_W else None
        db_V = torch.zeros_like(b_V, dtype=_summing(b_V.dtype)) if b_V is not None and wants_b else None
        width = len(W_VD) if W_VD is not None else h_TD.shape[1]
        by_autograd = divergence is not None and targets.soft_T is not None and targets.ids_TK is None
        chunk = chunk_tokens(width, _gpu_memory(h_TD.device) * gpu_share, by_autograd=by_autograd)
        for start in range(0, len(h_TD), chunk):
            s = slice(start, start + chunk)
            z = torch.nn.functional.linear(h_TD[s], W_VD, b_V) if W_VD is not None else h_TD[s]
            z = z.to(_summing(z.dtype)) if z.dtype != _summing(z.dtype) else z.clone() if W_VD is None else z
            slope = logit_map.apply_(z)
            part, dz = _loss_and_gradient(z, targets.part(s, z.dtype), divergence)
            loss += part
            dz = dz if slope is None else dz.mul_(slope)
            dz = dz if logit_map.scale == 1 else dz.mul_(logit_map.scale)
            if db_V is not None:
                db_V += dz.sum(0)
            dz = dz.to(h_TD.dtype)
            if dh_TD is not None:
                dh_TD[s] = dz @ W_VD if W_VD is not None else dz
            if dW_VD is not None:
                _add_product(dW_VD, dz, h_TD[s])
            del z, dz  # before the next chunk's are made
        ctx.grads = [dh_TD, dW_VD, db_V]
        ctx.dtypes = [h_TD.dtype, W_VD.dtype if W_VD is not None else None, b_V.dtype if b_V is not None else None]
        return loss

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        found = [_scaled(g, grad, dtype) for g, dtype in zip(ctx.grads, ctx.dtypes, strict=True)]
        ctx.grads = None
        return (*found, None, None, None, None)


def _scaled(gradient: Tensor | None, factor: Tensor, dtype: torch.dtype | None) -> Tensor | None:
    """In place: it may be as large as the head. Whether the factor is 1 is not asked: a GPU would be waited for."""
    return None if gradient is None else gradient.mul_(factor).to(dtype)


def _summing(dtype: torch.dtype) -> torch.dtype:
    """The type in which many numbers of a type are added up."""
    return torch.promote_types(dtype, torch.float32)


def _add_product(dW_VD: Tensor, dz_TV: Tensor, h_TD: Tensor) -> None:
    if dW_VD.dtype == dz_TV.dtype:
        dW_VD.addmm_(dz_TV.T, h_TD)
    else:
        dW_VD += dz_TV.T @ h_TD


def _loss_and_gradient(z: Tensor, t: HeadTargets, divergence: Divergence | None) -> tuple[Tensor, Tensor]:
    """Of the logits of a chunk of tokens."""
    labels_T1, hard_T1 = t.labels_T[:, None], t.hard_T[:, None]
    q, lse = _softmax(z)
    loss = (t.hard_T * (lse - z.gather(1, labels_T1)[:, 0])).sum()
    if t.soft_T is None:
        # dz = hard (q - [label])
        return loss, q.mul_(hard_T1).scatter_add_(1, labels_T1, -hard_T1)
    if t.temperature_T is None:
        # dz = hard (q - [label]) + g - q sum(g); the terms in q are one product, made in the memory of q
        soft = _SoftTargetGrad.of(z, lse, t, divergence)
        dz = soft.into(q.mul_((t.hard_T - soft.total_T)[:, None]), t.ids_TK)
    else:
        # With q' = softmax(z / T): dz = hard (q - [label]) + (g - q' sum(g)) / T
        temperature_T1 = t.temperature_T[:, None]
        z_tempered = z / temperature_T1
        q_tempered, lse = _softmax(z_tempered)
        soft = _SoftTargetGrad.of(z_tempered, lse, t, divergence)
        dz = soft.into(q_tempered.mul_(-soft.total_T[:, None]), t.ids_TK).div_(temperature_T1).addcmul_(q, hard_T1)
    return loss + soft.loss, dz.scatter_add_(1, labels_T1, -hard_T1)


def _softmax(z: Tensor) -> tuple[Tensor, Tensor]:
    """Probabilities, and the log-sum-exp of each row from the largest of them, which is at least 1/V."""
    q = torch.softmax(z, -1)
    return q, z.amax(-1) - q.amax(-1).log()


@dataclass(frozen=True)
class _SoftTargetGrad:
    """The divergence of a chunk: its sum, and its gradient in log q of the kept ids."""

    loss: Tensor
    grad_TK: Tensor
    total_T: Tensor
    """Sum of the gradient over all outcomes."""
    beyond_TV: Tensor | None = None
    """What the outcome of all other ids adds to the gradient in the logits."""
    scale_T1: Tensor | None = None
    """By which the gradient is still to be multiplied."""

    @staticmethod
    def of_all_ids(z: Tensor, lse: Tensor, t: HeadTargets) -> _SoftTargetGrad:
        """The forward KL with nothing left out, in few passes over the vocabulary. Overwrites the logits."""
        assert t.soft_T is not None and t.weights_TK is not None
        w = t.weights_TK
        # loss = -sum_j w_j log q_j, so g_j = -w_j: `soft` scales it when it is added (scale_T1)
        logq = z[:, : w.shape[1]].sub_(lse[:, None])
        if not logq.is_cpu:  # 0 log 0 is 0; to look whether there is any, as below, a GPU would have to be waited for
            logq.clamp_min_(torch.finfo(logq.dtype).min)
        loss_T = -torch.linalg.vecdot(w, logq)
        if logq.is_cpu and not bool(loss_T.isfinite().all()):
            loss_T = cross_entropy(w, logq)
        loss_T = loss_T if t.entropy_T is None else loss_T - t.entropy_T
        return _SoftTargetGrad((t.soft_T * loss_T).sum(), w, -t.soft_T * w.sum(-1), scale_T1=-t.soft_T[:, None])

    @staticmethod
    def of(z: Tensor, lse: Tensor, t: HeadTargets, divergence: Divergence | None) -> _SoftTargetGrad:
        if t.ids_TK is None and divergence is None:
            return _SoftTargetGrad.of_all_ids(z, lse, t)
        assert t.soft_T is not None and t.weights_TK is not None
        w = t.weights_TK
        if t.ids_TK is None:  # of the student's further ids the teacher has nothing
            w = torch.nn.functional.pad(w, (0, z.shape[1] - w.shape[1]))
        logq = (z[:, : w.shape[1]] if t.ids_TK is None else z.gather(1, t.ids_TK)) - lse[:, None]
        beyond = None
        if t.tail_T is not None:
            # log q of that outcome: lse over the other ids less lse over all. It shares its gradient h among them by
            # their parts in it, softmax over the others (`beyond`). Finite, so that where no id is beyond that outcome
            # has no part in anything.
            beyond, lse_beyond = _softmax(z.scatter(1, t.ids_TK, -1e30))
            logq = torch.cat([logq, (lse_beyond - lse).clamp_min(-1e4)[:, None]], 1)
            w = torch.cat([w, t.tail_T[:, None]], 1)
        loss, grad = _value_and_gradient(w, logq, t, divergence)
        total = grad.sum(-1)
        if beyond is not None:
            grad, tail = grad[:, :-1], grad[:, -1:]
            beyond.mul_(tail)
        return _SoftTargetGrad(loss, grad, total, beyond)

    def into(self, dz: Tensor, ids_TK: Tensor | None) -> Tensor:
        """Add all but what each outcome has in common to the gradient in the logits."""
        if self.beyond_TV is not None:
            dz.add_(self.beyond_TV)
        if ids_TK is not None:
            return dz.scatter_add_(1, ids_TK, self.grad_TK)
        kept = dz[:, : self.grad_TK.shape[1]]
        if self.scale_T1 is None:
            kept.add_(self.grad_TK)
        else:
            kept.addcmul_(self.grad_TK, self.scale_T1)
        return dz


def _value_and_gradient(
    w: Tensor, logq: Tensor, t: HeadTargets, divergence: Divergence | None
) -> tuple[Tensor, Tensor]:
    """The weighted sum of a divergence, and its gradient in log q."""
    assert t.soft_T is not None
    if divergence is None:
        w = w * t.soft_T[:, None]
        return cross_entropy(w, logq).sum(), w.neg_()
    if t.padding_TK is not None:  # an outcome that neither has: q = 0
        padding = torch.nn.functional.pad(t.padding_TK, (0, w.shape[1] - t.padding_TK.shape[1]))
        logq = logq.masked_fill(padding, -1e4)
    with torch.enable_grad():
        logq = logq.detach().requires_grad_()
        loss = (t.soft_T * divergence(w, logq)).sum()
    (grad,) = torch.autograd.grad(loss, logq)
    if t.padding_TK is not None:
        grad = grad.masked_fill(padding, 0)
    return loss.detach(), grad
