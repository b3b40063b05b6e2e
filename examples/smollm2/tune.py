"""Brief tuning: the MLPs of a dense model on one domain, or the routers of the MoE on all.

Both minimise the next-token loss (nats a token) over prompt and answer positions with AdamW, the
learning rate rising over the first tenth of the budget and then falling linearly to a tenth.
"""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from text import Tokens
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import LlamaForCausalLM, MixtralForCausalLM, PreTrainedModel
from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

IGNORED = -100


@dataclass(frozen=True)
class Budget:
    """How long and how fast to tune. tokens: target tokens in all; batch_tokens: at least so many a step."""

    tokens: int
    rate: float
    batch_tokens: int = 512
    longest: int = 512


def endless(rows: list[Tokens], seed: int) -> Iterator[Tokens]:
    """`rows` in shuffled order, reshuffled for each pass."""
    shuffler = random.Random(seed)
    while True:
        yield from shuffler.sample(rows, len(rows))


def batches(rows: Iterator[Tokens], budget: Budget) -> Iterator[dict[str, Tensor]]:
    """Right-padded batches (input_ids, attention_mask, labels: each (rows, length)) up to the budget."""
    seen = 0
    while seen < budget.tokens:
        batch: list[Tokens] = []
        while sum(len(row.ids) for row in batch) < budget.batch_tokens:
            batch.append(next(rows))
        length = min(budget.longest, max(len(row.ids) for row in batch))
        ids = torch.zeros(len(batch), length, dtype=torch.long)
        mask, labels = torch.zeros_like(ids), torch.full_like(ids, IGNORED)
        for place, row in enumerate(batch):
            tokens = torch.tensor(row.ids[:length])
            ids[place, : len(tokens)] = tokens
            mask[place, : len(tokens)] = 1
            labels[place, row.prompt_start : len(tokens)] = tokens[row.prompt_start :]
        seen += int((labels != IGNORED).sum())
        yield {"input_ids": ids, "attention_mask": mask, "labels": labels}


def run(
    model: PreTrainedModel,
    chosen: Callable[[str], bool],
    loss_of: Callable[[dict[str, Tensor]], Tensor],
    rows: Iterator[Tokens],
    budget: Budget,
) -> str:
    """Tune the parameters whose name is `chosen`, in place; returns a line that says what happened."""
    for name, weight in model.named_parameters():
        weight.requires_grad_(chosen(name))
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=budget.rate, weight_decay=0.0)
    began, seen, losses = time.monotonic(), 0, []
    for batch in batches(rows, budget):
        done = seen / budget.tokens
        # The first step must move too, hence the floor.
        share = max(0.1, done / 0.1) if done < 0.1 else 1.0 - done
        for group in optimizer.param_groups:
            group["lr"] = budget.rate * max(share, 0.1)
        loss = loss_of(batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        seen += int((batch["labels"] != IGNORED).sum())
        losses.append(loss.item())
    for weight in model.parameters():
        weight.requires_grad_(False)
    edge = max(1, len(losses) // 5)
    first, last = sum(losses[:edge]) / edge, sum(losses[-edge:]) / edge
    seconds = time.monotonic() - began
    return f"{seen} tokens, {len(losses)} steps, loss {first:.3f} -> {last:.3f}, {seconds:.0f} s"


def tune_mlps(dense: LlamaForCausalLM, rows: list[Tokens], budget: Budget, seed: int) -> str:
    """Tune only the MLPs of `dense` on the rows of one domain."""

    def loss_of(batch: dict[str, Tensor]) -> Tensor:
        return dense(**batch, use_cache=False).loss

    return run(dense, lambda name: ".mlp." in name, loss_of, endless(rows, seed), budget)


def tune_routers(moe: MixtralForCausalLM, rows: list[list[Tokens]], budget: Budget, balance: float, seed: int) -> str:
    """Tune only the routers of `moe` on rows of all domains by turns.

    balance: weight of Mixtral's load-balancing loss, over the whole (mixed) batch.
    """
    top_k, experts = moe.config.num_experts_per_tok, moe.config.num_local_experts
    turns = zip(*(endless(domain, seed) for domain in rows), strict=True)

    def loss_of(batch: dict[str, Tensor]) -> Tensor:
        output = moe(**{k: batch[k] for k in ("input_ids", "attention_mask")}, output_router_logits=True)
        logits, labels = output.logits[:, :-1], batch["labels"][:, 1:]
        loss = cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED)
        uneven = load_balancing_loss_func(output.router_logits, experts, top_k, batch["attention_mask"])
        return loss + balance * uneven

    mixed = itertools.chain.from_iterable(turns)
    return run(moe, lambda name: ".mlp.gate.weight" in name, loss_of, mixed, budget)
