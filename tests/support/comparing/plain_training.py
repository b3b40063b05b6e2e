"""Training as a plain loop: torch's AdamW, clipping, whole batches, one text at a time, nothing fused."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.func import functional_call

from cluster.storage import LocalStorage
from support.small_students import MIX
from workers.manifest import read_plan
from workers.quantise.lattice import Form, on_lattice
from workers.student.config import LossConfig, TrainConfig
from workers.student.training.schedule import learning_rate
from workers.targets.reader import TargetStream
from workers.targets.store import TargetStore

STEPS, BATCH = 4, 120
LOSS = LossConfig(kl=1.0, ce=0.25)
TRAIN: dict[str, Any] = {
    "batch_tokens": BATCH,
    "micro_tokens": 48,
    "lr": 3e-3,
    "warmup": 0.3,
    "schedule": "cosine",
    "weight_decay": 0.1,
    "clip": 0.2,
    "workers": 2,
    "checkpoint_steps": 2,
}
"""Small micro-batches, so that the workers' numbers of them differ; a clip that bites; weight decay."""


def first_batches(storage: LocalStorage, steps: int, tokens: int) -> list[Any]:
    """The global batches of the first steps."""
    stream = TargetStream(TargetStore(storage, "train"), read_plan(storage, "train"), MIX, 0)
    return [stream.next_batch(tokens) for _ in range(steps)]


def plain_training(
    batches: list[Any], initial: Path, loss: LossConfig, train: TrainConfig, lattice: Mapping[str, Form] = {}
) -> tuple[list[float], list[float], Any]:
    """Mean loss and gradient norm of each step, and the model after the last, with whole weights. Those in `lattice`
    are rounded where they are computed with, straight through, once its share of the budget is spent."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(initial, dtype=torch.float32).train()
    optimizer = torch.optim.AdamW(model.parameters(), betas=train.betas, weight_decay=train.weight_decay)
    losses, norms, spent = [], [], 0
    for rows in batches:
        targets = sum(r.targets for r in rows)
        start = train.quantise.start if train.quantise is not None else 0.0
        weights = {n: p for n, p in model.named_parameters() if n in lattice and spent / train.tokens >= start}
        straight = {n: p + (on_lattice(p, lattice[n]) - p).detach() for n, p in weights.items()}
        total, entropy = torch.zeros(()), 0.0
        for row in rows:
            total = total + _loss(model, straight, row, loss)
            entropy += float(row.entropy.astype(np.float64).sum())
        optimizer.zero_grad()
        (total / targets).backward()
        norms.append(float(torch.nn.utils.clip_grad_norm_(model.parameters(), train.clip)))
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(spent / train.tokens, train.lr, train.schedule, train.warmup, train.decay)
        optimizer.step()
        losses.append(float(total.detach()) / targets - loss.kl * entropy / targets)
        spent += targets
    return losses, norms, model


def _loss(model: Any, straight: Mapping[str, Tensor], row: Any, loss: LossConfig) -> Tensor:
    """The summed loss of one text, without what its targets' entropy takes off."""
    ids = torch.from_numpy(row.tokens.astype(np.int64))
    logits_TV = functional_call(model, dict(straight), (), {"input_ids": ids[None, :-1]}).logits[0, row.start - 1 :]
    logp_TV = logits_TV.log_softmax(-1)
    total, at = torch.zeros(()), 0
    for t, n in enumerate(row.num_kept.tolist()):
        w = torch.from_numpy(row.weights[at : at + n])
        total = total - loss.kl * (w * logp_TV[t, row.ids[at : at + n].astype(np.int64)]).sum()
        total = total - loss.ce * logp_TV[t, int(row.tokens[row.start + t])]
        at += n
    return total
