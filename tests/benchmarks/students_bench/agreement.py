"""Values and gradients of the product's losses against TRL's and Liger's, where they compute the same thing.

python tests/benchmarks/students_bench/agreement.py    (in an environment that has both)

Prints one JSON object: the largest relative difference of a value or a gradient, by rival and loss. float64.
"""

from __future__ import annotations

import json
import os

os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"
os.environ.setdefault("DS_ACCELERATOR", "cpu")

import torch
from liger_kernel.chunked_loss import LigerFusedLinearJSDLoss
from torch import Tensor
from trl.experimental.gkd import GKDTrainer

from workers.student.config import LossConfig
from workers.student.losses.fused import HeadTargets, fused_loss
from workers.student.losses.objective import divergence_of

T, D, V = 200, 24, 500
LOSSES = {0.0: LossConfig(), 1.0: LossConfig(divergence="reverse_kl")}
LOSSES |= {b: LossConfig(divergence="jsd", beta=b) for b in (0.1, 0.5, 0.9)}


def main() -> None:
    """Compare at every beta."""
    generator = torch.Generator().manual_seed(0)
    h, W, teacher_h, teacher_W = (
        torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in ((T, D), (V, D), (T, D), (V, D))
    )
    labels = torch.randint(0, V, (T,), generator=generator)
    worst = {"trl": 0.0, "liger": 0.0}
    for beta, loss in LOSSES.items():
        for tau in (1.0, 2.0):
            p = (teacher_h @ teacher_W.T / tau).softmax(-1)
            mine = ours(h, W, p, loss, tau, labels, 0.0)
            theirs = trl(h, W, teacher_h @ teacher_W.T, beta, tau)
            worst["trl"] = max(worst["trl"], difference(mine, theirs))
        p = (teacher_h @ teacher_W.T).softmax(-1)
        mine = ours(h, W, p, loss, 1.0, labels, 0.3, 0.7)
        worst["liger"] = max(worst["liger"], difference(mine, liger(h, W, teacher_h, teacher_W, beta, labels)))
    print(json.dumps({f"difference_from_{rival}": float(f"{value:.1e}") for rival, value in worst.items()}))


def ours(
    h: Tensor,
    W: Tensor,
    p: Tensor,
    loss: LossConfig,
    tau: float,
    labels: Tensor,
    hard: float,
    soft: float = 1.0,
) -> list[Tensor]:
    """Sum over positions less the teacher's entropy where the loss is a cross-entropy; gradients of h and W."""
    h, W = h.clone().requires_grad_(), W.clone().requires_grad_()
    ones = torch.ones(T, dtype=torch.float64)
    targets = HeadTargets(labels, hard * ones, soft * ones, None, p, temperature_T=tau * ones if tau != 1 else None)
    value = fused_loss(h, W, None, targets, divergence_of(loss))
    value.backward()
    floor = soft * torch.special.entr(p).sum() if loss.divergence == "forward_kl" else 0.0
    return [value.detach() - floor, *(x.grad for x in (h, W) if x.grad is not None)]


def trl(h: Tensor, W: Tensor, teacher_logits: Tensor, beta: float, tau: float) -> list[Tensor]:
    """GKDTrainer's loss, which has no factor of the temperature squared."""
    h, W = h.clone().requires_grad_(), W.clone().requires_grad_()
    value = GKDTrainer.generalized_jsd_loss(h @ W.T, teacher_logits, beta=beta, temperature=tau, reduction="sum")
    value.backward()
    return [value.detach(), *(x.grad for x in (h, W) if x.grad is not None)]


def liger(h: Tensor, W: Tensor, teacher_h: Tensor, teacher_W: Tensor, beta: float, labels: Tensor) -> list[Tensor]:
    """Liger's fused linear JSD with three tenths of cross-entropy; it is a mean, so the sum is T times it."""
    h, W = h.clone().requires_grad_(), W.clone().requires_grad_()
    loss = LigerFusedLinearJSDLoss(weight_hard_loss=0.3, weight_soft_loss=0.7, beta=beta, compiled=False)
    value = T * loss(h, W, teacher_h, teacher_W, labels)
    value.backward()
    return [value.detach(), *(x.grad for x in (h, W) if x.grad is not None)]


def difference(one: list[Tensor], other: list[Tensor]) -> float:
    """Largest over the three, relative to the largest number."""
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(one, other, strict=True))


if __name__ == "__main__":
    main()
