"""A student's optimiser step: the shipped loop on each kind of targets, beside Liger's fused cross-entropy in it.

Each kind has an engine of its own, one after another. What TRL's GKDTrainer does is in gkd.py.
"""

from __future__ import annotations

from typing import Any

import torch

from gpu_bench.work import SHAPES, TEACHER_WIDTH, VOCABULARY, dense_model, peak, rows, seconds, start_peak, step_flops
from orchestrator.preflight.parts import Lessons, student_part
from workers.logit_map import LogitMap
from workers.student.config import LossConfig, ModelConfig, SpecialistConfig, TrainConfig
from workers.student.losses.objective import divergence_of
from workers.student.models.student_model import DistillationModel, given
from workers.student.training.engine import engine_over
from workers.student.training.step import Optimiser
from workers.targets.heads import TeacherHead

KINDS = ["ce", "liger", "sparse", "hidden", "full"]
_LOSSES = {"ce": LossConfig(kl=0, ce=1), "liger": LossConfig(kl=0, ce=1)}
FULL_TOKENS = 2_048
"""Of a step on all log-probabilities: 1.2 GB."""


class _Liger(DistillationModel):
    """The same backbone under Liger's fused head and cross-entropy."""

    def forward(self, texts: Any, targets: Any) -> torch.Tensor:
        from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss

        hidden = self.causal_lm.get_decoder()(**given(texts), use_cache=False).last_hidden_state
        loss = LigerFusedLinearCrossEntropyLoss(reduction="sum")
        h_TD = hidden.flatten(0, 1)[texts.positions_T]
        return loss(self.loss_head.weight, h_TD, targets.labels_T) * targets.hard_T[0]


def measure(shape: str, kind: str, args: Any) -> dict[str, Any]:
    """Seconds of a step, tokens a second, the share of the card's peak FLOP/s and the most memory."""
    vocabulary = args.vocabulary or VOCABULARY
    tokens = min(args.tokens, FULL_TOKENS) if kind == "full" else args.tokens
    start_peak(args.device)
    loss = _LOSSES.get(kind, LossConfig())
    train = TrainConfig(tokens=10**12, batch_tokens=tokens, micro_tokens=tokens, gpus_per_worker=args.device == "cuda")
    model = (_Liger if kind == "liger" else DistillationModel)(
        dense_model(shape, vocabulary, args.device), divergence_of(loss)
    )
    engine = engine_over(model, train, "bfloat16")
    heads = {"teacher": TeacherHead(torch.randn(vocabulary, TEACHER_WIDTH).bfloat16(), None, LogitMap())}
    own = {name: head.to(args.device) for name, head in heads.items()} if kind == "hidden" else {}
    optimiser = Optimiser(engine, args.device, loss, train, own)
    given_rows = [rows(kind, tokens, args.longest, vocabulary, seed) for seed in range(2)]
    shares = [optimiser.share_ahead(own_rows, 0) for own_rows in given_rows]

    def step(i: int) -> None:
        optimiser.step(given_rows[i % 2], 0, shares[i % 2])

    took = seconds(step, args.device, args.steps)
    lengths = [row.targets for row in given_rows[0]]
    found = {"ms": took * 1e3, "tokens_per_s": sum(lengths) / took, "peak_bytes": peak(args.device)}
    found["flops_per_s"] = step_flops(shape, vocabulary, lengths) / took
    found["planned_bytes"] = _planned(shape, kind, loss, train, args) if args.device == "cuda" else None
    engine.destroy()
    return found


def _planned(shape: str, kind: str, loss: LossConfig, train: TrainConfig, args: Any) -> int:
    """Bytes of tensors that `stillhouse plan` expects at most on this card."""
    vocabulary = args.vocabulary or VOCABULARY
    model = ModelConfig(config=SHAPES[shape] | {"vocab_size": vocabulary})
    heads = 2 * vocabulary * TEACHER_WIDTH if kind == "hidden" else 0
    scheme = kind if kind in ("hidden", "full") else "systematic"
    lessons = Lessons("", vocabulary, scheme, args.longest, heads)
    part = student_part(shape, SpecialistConfig(model=model, loss=loss, train=train), lessons)
    assert part.chunk is not None
    others = sum(size for what, size in part.gpu_memory_of.items() if what not in ("cuda_context", "logits"))
    return others + part.chunk.bytes_on(torch.cuda.get_device_properties(0).total_memory)
