"""Distillation of several students from one mixture on the same texts: whole distributions, every token of a text."""

from __future__ import annotations

import copy
import random
from dataclasses import dataclass
from typing import Any

import language
import torch
from support.initial.whole_mixture import mean_kl

RATES = (3e-3, 1e-3)
_TEXTS = 5
"""Of a step: about 240 tokens."""


@dataclass(frozen=True)
class Course:
    """So many steps on texts of a domain that a seed draws."""

    domain: str
    steps: int
    seed: int


@dataclass
class Run:
    """Held-out KL by student and learning rate, and the tokens of one student's course."""

    kl: dict[tuple[str, float], float]
    tokens: int


def distil(
    moe: Any, students: dict[str, Any], keys: list[tuple[str, float]], course: Course, heldout: list[list[int]]
) -> Run:
    """Train students at learning rates; every batch is put to the mixture once."""
    trained = {(name, rate): copy.deepcopy(students[name]).train() for name, rate in keys}
    optimizers = {
        key: torch.optim.AdamW(model.parameters(), lr=key[1], betas=(0.9, 0.95)) for key, model in trained.items()
    }
    rng, tokens = random.Random(1000 + course.seed), 0
    for step in range(course.steps):
        ids_BS, mask_BS = batch(course.domain, rng)
        tokens += int(mask_BS.sum())
        with torch.no_grad():
            p_TV = moe(input_ids=ids_BS, attention_mask=mask_BS).logits[mask_BS.bool()].log_softmax(-1)
        share = min(1.0, (step + 1) / (0.1 * course.steps)) * (1 - step / course.steps)
        for key, model in trained.items():
            q_TV = model(input_ids=ids_BS, attention_mask=mask_BS).logits[mask_BS.bool()].log_softmax(-1)
            optimizer = optimizers[key]
            optimizer.param_groups[0]["lr"] = key[1] * share
            optimizer.zero_grad()
            (p_TV.exp() * (p_TV - q_TV)).sum(-1).mean().backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
    return Run({key: mean_kl(moe, model.eval(), heldout) for key, model in trained.items()}, tokens)


def batch(domain: str, rng: random.Random) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids [B, S] of fresh texts, padded at the end, and their mask."""
    texts = [language.sample(domain, rng) for _ in range(_TEXTS)]
    longest = max(map(len, texts))
    ids = [text + [0] * (longest - len(text)) for text in texts]
    mask = [[1] * len(text) + [0] * (longest - len(text)) for text in texts]
    return torch.tensor(ids), torch.tensor(mask)
