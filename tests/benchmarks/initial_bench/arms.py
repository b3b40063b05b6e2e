"""What a dense student can start from: random weights, and four ways to make one MLP of a layer's experts."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from support.initial.whole_mixture import dense_of, watch_whole
from transformers import AutoConfig, AutoModelForCausalLM

from workers.student.models.dense_files import Mlp
from workers.student.models.dense_sibling import dense_config
from workers.student.models.merged_experts import (
    Seen,
    average,
    entropy_share,
    experts_of,
    neurons,
)

Merge = Callable[[Any, Seen], Mlp]


def arms(moe: Any, texts: list[list[int]]) -> dict[str, Callable[[int], Any]]:
    """Initial students by name, each made anew for a seed. Widths are those of one expert and of a token's experts."""
    F, K = moe.config.moe_intermediate_size, moe.config.num_experts_per_tok
    seen = watch_whole(moe, texts)

    def merged(width: int, merge: Merge) -> Callable[[int], Any]:
        mlps = [merge(experts_of(layer), s) for layer, s in zip(moe.get_decoder().layers, seen, strict=True)]
        return lambda _: dense_of(moe, width, mlps)

    return {
        f"random, {F} neurons": lambda seed: random_weights(moe, F, seed),
        f"random, {K * F} neurons": lambda seed: random_weights(moe, K * F, seed),
        f"plain average, {F}": merged(F, lambda experts, s: average(experts, evenly(s, moe.config.num_experts))),
        f"average by routing, {F}": merged(F, average),
        f"top {K} experts side by side, {K * F}": merged(K * F, lambda experts, s: side_by_side(experts, s, K)),
        f"neurons, fitted, {F}": merged(F, lambda experts, s: neurons(experts, s, F)),
        f"neurons, fitted, {K * F}": merged(K * F, lambda experts, s: neurons(experts, s, K * F)),
    }


def random_weights(moe: Any, width: int, seed: int) -> Any:
    torch.manual_seed(seed)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(**dense_config(moe.config.to_dict(), width)))


def evenly(seen: Seen, experts: int) -> Seen:
    """As if every token had been sent to each expert alike."""
    N = len(seen.x_ND)
    expert_NE, weight_NE = torch.arange(experts).expand(N, -1), torch.full((N, experts), 1 / experts)
    return dataclasses.replace(seen, expert_NK=expert_NE, weight_NK=weight_NE)


@torch.no_grad()
def side_by_side(experts: Any, seen: Seen, count: int) -> Mlp:
    """The neurons of the most used experts, output weights scaled by mean routing weights that sum to 1."""
    weight_E = seen.mean_weights(len(experts.down_proj))
    top = weight_E.topk(count).indices
    scale = weight_E[top] / weight_E[top].sum() * weight_E.sum()
    gates, ups = zip(*(experts.gate_up_proj[e].chunk(2) for e in top), strict=True)
    downs = [s * experts.down_proj[e] for e, s in zip(top, scale, strict=True)]
    return Mlp(torch.cat(gates), torch.cat(ups), torch.cat(downs, 1))


def differences(moe: Any, texts: list[list[int]]) -> dict[str, float]:
    """How far a layer's experts are from one another, and how evenly they are used; means over layers."""
    cosines, entropies = [], []
    for layer, seen in zip(moe.get_decoder().layers, watch_whole(moe, texts), strict=True):
        experts = experts_of(layer)
        flat_EP = torch.cat([experts.gate_up_proj.flatten(1), experts.down_proj.flatten(1)], 1).detach()
        flat_EP = flat_EP / flat_EP.norm(dim=1, keepdim=True)
        E = len(flat_EP)
        cosines.append(float(((flat_EP @ flat_EP.T).sum() - E) / (E * (E - 1))))
        entropies.append(entropy_share(seen.mean_weights(E)))
    return {"cosine": sum(cosines) / len(cosines), "routing_entropy": sum(entropies) / len(entropies)}
