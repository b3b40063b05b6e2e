"""Figures about the teacher: perplexity, and how far its experts lie apart."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from text import Tokens
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import LlamaForCausalLM, PreTrainedModel
from upcycle import Mlps


@torch.no_grad()
def perplexity(model: PreTrainedModel, rows: list[Tokens], longest: int) -> tuple[float, float]:
    """exp of the mean next-token loss over (prompt and answer, the answer alone) positions of all `rows`.

    Rows are cut at `longest` tokens; the caller says so.
    """
    whole, answer, whole_count, answer_count = 0.0, 0.0, 0, 0
    for row in rows:
        ids = torch.tensor(row.ids[:longest])
        losses = cross_entropy(model(input_ids=ids[None]).logits[0, :-1], ids[1:], reduction="none")
        # losses[i] is the loss of token i + 1.
        after_prompt, after_answer = losses[row.prompt_start - 1 :], losses[row.answer_start - 1 :]
        whole, whole_count = whole + after_prompt.sum().item(), whole_count + len(after_prompt)
        answer, answer_count = answer + after_answer.sum().item(), answer_count + len(after_answer)
    return math.exp(whole / whole_count), math.exp(answer / max(answer_count, 1))


def weight_distance(expert: Mlps, origin: Mlps) -> float:
    """Mean over all MLP matrices of |expert - origin| / |origin| (Frobenius norms)."""
    ratios = [(expert[name] - weight).norm() / weight.norm() for name, weight in origin.items()]
    return torch.stack(ratios).mean().item()


@torch.no_grad()
def output_difference(dense: LlamaForCausalLM, expert: Mlps, rows: list[Tokens]) -> float:
    """Mean over layers and tokens of |expert(x) - mlp(x)| / |mlp(x)|.

    x: the MLP inputs of the original `dense` on `rows`, so both see the same states; prompt and answer
    positions.
    """
    total, count, start = 0.0, 0, 0

    def hook_for(layer: int) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        names = [f"model.layers.{layer}.mlp.{part}_proj.weight" for part in ("gate", "up", "down")]
        gate, up, down = (expert[name] for name in names)

        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            nonlocal total, count
            states, original = inputs[0][0, start:], output[0, start:]
            changed = (module.act_fn(states @ gate.T) * (states @ up.T)) @ down.T
            ratios = (changed - original).norm(dim=-1) / original.norm(dim=-1).clamp_min(1e-9)
            total, count = total + ratios.sum().item(), count + len(ratios)

        return hook

    layers = dense.model.layers
    handles = [layer.mlp.register_forward_hook(hook_for(number)) for number, layer in enumerate(layers)]
    try:
        for row in rows:
            start = row.prompt_start
            dense.model(input_ids=torch.tensor([row.ids]))
    finally:
        for handle in handles:
            handle.remove()
    return total / count
