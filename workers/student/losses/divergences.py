"""What a student can minimise at a position: divergences between the teacher's distribution and its own. Pure.

A function takes the teacher's probabilities and the student's log-probabilities over the same E outcomes and returns
a value for each of T positions, in nats. The outcomes are the whole vocabulary (`full` targets), or the K ids that were
kept and all others as one (`topk` targets with their tail: the coarse space of arXiv 2503.16870's ghost token). Every
one is 0 where both agree, positive elsewhere, and on the coarse space never more than on the whole vocabulary.

In what follows p is the teacher, q = softmax(z) the student, and gradients are those in the logits z; in each of them
the sum over ids is 0. The gradient in z follows from that in log q by dz = g - q sum(g), which is all that the fused
head (fused.py) needs to know of a divergence.

Only `cross_entropy`, and so the forward KL, is linear in p: it alone may be given a sampled p whose mean is the
distribution. The others of a sample are other divergences, on average too (`unbiased` in config.py's LossConfig).

Legend: T positions, E outcomes.
"""

from __future__ import annotations

import torch
from torch import Tensor

LEAST = 1.3e-14
"""Under a logarithm, an outcome of which the teacher has nothing counts as this, the least probability that a `topk`
store keeps (workers/targets/encoding/scalars.py): one that is smaller is kept as 0."""


def cross_entropy(w_TE: Tensor, logq_TE: Tensor) -> Tensor:
    """- sum_i w_i log q_i for weights w, which need not sum to 1. Gradient: q sum(w) - w.

    Forward KL plus the teacher's entropy if w is its distribution, or a sample with that mean (arXiv 2503.16870,
    section 3); the loss of plain language modelling if w is 1 at the token that stands there.
    """
    # 0 * log 0: an outcome that neither has is no loss.
    return -torch.where(w_TE == 0, 0, w_TE * logq_TE).sum(-1)


def forward_kl(p_TE: Tensor, logq_TE: Tensor) -> Tensor:
    """KL(p || q) = sum_i p_i log(p_i / q_i). Gradient: q - p. Covers all that the teacher may say (Hinton et al. 2015,
    arXiv 1503.02531)."""
    return torch.special.xlogy(p_TE, p_TE).sum(-1) + cross_entropy(p_TE, logq_TE)


def reverse_kl(p_TE: Tensor, logq_TE: Tensor) -> Tensor:
    """KL(q || p) = sum_i q_i log(q_i / p_i). Gradient: q_j (log(q_j / p_j) - KL). Seeks the teacher's modes, and is
    what on-policy distillation minimises (arXiv 2306.08543, section 2)."""
    return (logq_TE.exp() * (logq_TE - _log(p_TE))).sum(-1)


def generalized_jsd(p_TE: Tensor, logq_TE: Tensor, beta: float, *, normalised: bool = False) -> Tensor:
    """beta KL(p || m) + (1 - beta) KL(q || m) with m = beta p + (1 - beta) q, beta in (0, 1) (arXiv 2306.13649, eq. 1).

    Gradient: (1 - beta) q_j (log(q_j / m_j) - KL(q || m)). It fades as beta nears 0 or 1. `normalised` divides by
    beta (1 - beta), so that the learning rate need not follow beta: the forward KL as beta goes to 0, the reverse KL as
    it goes to 1 (and at these).
    """
    if normalised and beta in (0, 1):
        return (reverse_kl if beta else forward_kl)(p_TE, logq_TE)
    q_TE = logq_TE.exp()
    logm_TE = torch.lerp(q_TE, p_TE, beta).clamp_min(torch.finfo(q_TE.dtype).tiny).log()
    teacher_T = (torch.special.xlogy(p_TE, p_TE) - p_TE * logm_TE).sum(-1)
    student_T = (q_TE * (logq_TE - logm_TE)).sum(-1)
    jsd_T = beta * teacher_T + (1 - beta) * student_T
    return jsd_T / (beta * (1 - beta)) if normalised else jsd_T


def skew_kl(p_TE: Tensor, logq_TE: Tensor, alpha: float) -> Tensor:
    """KL(p || alpha p + (1 - alpha) q), alpha in [0, 1): a forward KL that stays bounded where q forgets what p has
    (DistiLLM, arXiv 2402.03898, section 3.1).

    Gradient: q_j sum(w) - w_j with w_i = (1 - alpha) p_i q_i / m_i. The forward KL at alpha = 0.
    """
    m_TE = torch.lerp(logq_TE.exp(), p_TE, alpha)
    return (torch.special.xlogy(p_TE, p_TE) - p_TE * m_TE.clamp_min(torch.finfo(m_TE.dtype).tiny).log()).sum(-1)


def reverse_skew_kl(p_TE: Tensor, logq_TE: Tensor, alpha: float) -> Tensor:
    """KL(q || (1 - alpha) p + alpha q), alpha in [0, 1): a reverse KL that stays bounded where p has nothing
    (arXiv 2402.03898, section 3.1).

    Gradient: q_j (c_j - sum_i q_i c_i) with c_i = log(q_i / m_i) + 1 - alpha q_i / m_i. The mixture's own q is not held
    constant. The reverse KL at alpha = 0.
    """
    q_TE = logq_TE.exp()
    return (q_TE * (logq_TE - _log(torch.lerp(p_TE, q_TE, alpha)))).sum(-1)


def total_variation(p_TE: Tensor, logq_TE: Tensor) -> Tensor:
    """1/2 sum_i |p_i - q_i|: 1 less the chance that speculative decoding takes the student's draft (arXiv 2310.08461).

    Gradient: q_j (s_j - sum_i q_i s_i) / 2 with s = sign(q - p). Never above 1, nor is its gradient; flat where both
    are sure of different things.
    """
    return 0.5 * (p_TE - logq_TE.exp()).abs().sum(-1)


def alpha_beta(p_TE: Tensor, logq_TE: Tensor, alpha: float, beta: float) -> Tensor:
    """The alpha-beta divergence for alpha, beta >= 0, not both 0 (ABKD, arXiv 2505.04560; Cichocki et al. 2011)

        -1 / (ab) sum_i [p_i^a q_i^b - a / (a + b) p_i^(a + b) - b / (a + b) q_i^(a + b)]

    with its limits at a = 0 and b = 0. Gradient: q_j (d_j - sum_i q_i d_i), d_i = -(p_i^a q_i^(b-1) - q_i^(a+b-1)) / a.
    The forward KL at (1, 0), the reverse KL at (0, 1). On the coarse space it is a divergence of those outcomes.
    """
    logp_TE, both = _log(p_TE), alpha + beta
    p_TE, q_TE = logp_TE.mul(both).exp(), logq_TE.mul(both).exp()
    if beta == 0 or alpha == 0:
        more, less = (p_TE, q_TE) if beta == 0 else (q_TE, p_TE)
        ratio = (logp_TE - logq_TE) if beta == 0 else (logq_TE - logp_TE)
        return (more * both * ratio - more + less).sum(-1) / both**2
    cross = (alpha * logp_TE + beta * logq_TE).exp()
    return -(cross - alpha / both * p_TE - beta / both * q_TE).sum(-1) / (alpha * beta)


def _log(p_TE: Tensor) -> Tensor:
    return torch.where(p_TE > 0, p_TE, LEAST).log()
