"""A dense model out of a mixture of experts: attention, norms, embeddings and head are kept, and the experts of each
layer become one MLP, after what the mixture's own routers and experts do on a domain's texts.

Experts trained apart have their neurons in other orders: neuron 5 of one has nothing to do with neuron 5 of another,
and their mean (`average`) is little more than noise. `neurons` takes whole neurons instead, out of all experts, those
whose outputs are largest; then it fits the MLP's output weights to what the layer put out, by ridge regression towards
the experts' own weights. On the quickstart's teacher that leaves a KL of .03 nats where the mean leaves 3.9
(tests/benchmarks/initial.py). Experts that are copies of one MLP, a little trained (a mixture made of a dense model),
are the other way round: the mean leaves .005 (SmolLM2's), and neurons, among which are copies of the same ones, .23. So
`auto` makes both and keeps the better.

Legend: N tokens, D hidden size, E experts, K experts of a token, F neurons of an expert, W neurons of the dense MLP.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from workers.student.models.dense_sibling import active_width, dense_config, expert_width, why_not_merge

_RIDGES = (10.0, 1.0, 0.1, 0.01, 0.001)
"""Pulls towards the experts' own output weights, as shares of the neurons' mean square, of which the best is taken."""

_HELDOUT = 4
"""Every so many texts one is not fitted to, so that the KL found on it is honest."""


@dataclass(frozen=True)
class Mlp:
    """A gated MLP without biases."""

    gate_WD: Tensor
    up_WD: Tensor
    down_DW: Tensor


@dataclass
class Seen:
    """What the experts of a layer were given and put out, in the model's own type."""

    x_ND: Tensor
    y_ND: Tensor
    expert_NK: Tensor
    weight_NK: Tensor

    def mean_weights(self, experts: int) -> Tensor:
        """Routing frequency: the mean weight [E] of each expert over all tokens, 0 where it was not chosen."""
        total_E = torch.zeros(experts).index_add_(0, self.expert_NK.flatten(), self.weight_NK.flatten().float())
        return total_E / len(self.x_ND)


@torch.no_grad()
def merge_experts(moe: Any, how: str, width: int | None, texts: list[list[int]]) -> tuple[Any, dict[str, Any]]:
    """The dense sibling of a mixture, in float32, and facts: KL to the mixture in nats a token on texts that were not
    fitted to, and the routing's entropy by layer (1: all experts alike). Raises ValueError where there is none.

    `how` is `average`, `neurons` (so many as `width` says) or `auto`.
    """
    if not texts:
        raise ValueError("model.merge_experts: no training text to measure the routing on")
    settings = moe.config.to_dict()
    if reason := why_not_merge(settings):
        raise ValueError(f"model.merge_experts: {reason}")
    fitted = [text for i, text in enumerate(texts) if i % _HELDOUT] or texts
    seen = watch_experts(moe, fitted)
    layers = [(experts_of(layer), sample) for layer, sample in zip(moe.get_decoder().layers, seen, strict=True)]
    made: dict[str, Any] = {}
    if how != "neurons":
        made["average"] = dense_of(moe, expert_width(settings), [average(*layer) for layer in layers])
    if how != "average":
        wide = width or active_width(settings)
        made["neurons"] = dense_of(moe, wide, [neurons(*layer, wide) for layer in layers])
    kl = {name: mean_kl(moe, dense, texts[::_HELDOUT]) for name, dense in made.items()}
    best = min(kl, key=kl.__getitem__)
    experts = layers[0][0].down_proj.shape[0]
    return made[best], {
        "merged": best,
        "merged_experts": experts,
        "merged_width": made[best].config.intermediate_size,
        "merged_on_tokens": sum(map(len, fitted)),
        "routing_entropy": [round(entropy_share(s.mean_weights(experts)), 4) for s in seen],
        "kl_to_mixture": kl[best],
        "kl_of_merges": kl,
    }


def dense_of(moe: Any, width: int, mlps: list[Mlp]) -> Any:
    """The mixture's dense sibling with these MLPs and all else as it is, in float32."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(**dense_config(moe.config.to_dict(), width))
    dense = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    state = {name: weight for name, weight in moe.state_dict().items() if name in dense.state_dict()}
    for i, mlp in enumerate(mlps):
        of_layer = f"{dense.base_model_prefix}.layers.{i}.mlp"
        state |= {f"{of_layer}.gate_proj.weight": mlp.gate_WD, f"{of_layer}.up_proj.weight": mlp.up_WD}
        state[f"{of_layer}.down_proj.weight"] = mlp.down_DW
    dense.load_state_dict(state)
    dense.generation_config = copy.deepcopy(moe.generation_config)
    return dense


def experts_of(layer: Any) -> Any:
    """The module of a decoder layer that holds its experts' weights: gate_up_proj [E, 2F, D], down_proj [E, D, F]."""
    return next(m for m in layer.modules() if getattr(getattr(m, "gate_up_proj", None), "ndim", 0) == 3)


@torch.no_grad()
def watch_experts(moe: Any, texts: list[list[int]]) -> list[Seen]:
    """What passes through the experts of every layer on some texts."""
    calls: list[list[Seen]] = []
    hooks = []
    for layer in moe.get_decoder().layers:
        mine: list[Seen] = []
        calls.append(mine)

        def note(_: Any, args: tuple[Tensor, Tensor, Tensor], y_ND: Tensor, mine: list[Seen] = mine) -> None:
            x_ND, expert_NK, weight_NK = args
            mine.append(Seen(x_ND, y_ND.reshape(x_ND.shape), expert_NK, weight_NK))

        hooks.append(experts_of(layer).register_forward_hook(note))
    try:
        for text in texts:
            moe.get_decoder()(input_ids=torch.tensor([text]), use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    parts = ("x_ND", "y_ND", "expert_NK", "weight_NK")
    return [Seen(*(torch.cat([getattr(s, part) for s in mine]) for part in parts)) for mine in calls]


@torch.no_grad()
def average(experts: Any, seen: Seen) -> Mlp:
    """The experts' mean, weighted by routing frequency; its output is scaled by the sum of a token's weights."""
    gate_up_EFD, down_EDF = experts.gate_up_proj.float(), experts.down_proj.float()
    weight_E = seen.mean_weights(len(down_EDF))
    gate_FD, up_FD = torch.einsum("e,efd->fd", weight_E / weight_E.sum(), gate_up_EFD).chunk(2)
    return Mlp(gate_FD, up_FD, torch.einsum("e,edf->df", weight_E, down_EDF))


@torch.no_grad()
def neurons(experts: Any, seen: Seen, width: int) -> Mlp:
    """The `width` neurons of all experts that put out most, with output weights fitted to the whole layer's output.

    A neuron fires for all tokens now, not for those of its expert, and those left out are missed: the fit is for that.
    """
    E, _, F = experts.down_proj.shape
    if width > E * F:
        raise ValueError(
            f"model.merged_width: {width} neurons, and a layer's experts have {E * F} together; give {E * F} or less"
        )
    output_EF = torch.stack([_output(experts, seen, e) for e in range(E)])
    chosen_W = output_EF.flatten().topk(width).indices.sort().values
    expert_W, neuron_W = chosen_W // F, chosen_W % F
    gate_WD, up_WD = (experts.gate_up_proj[expert_W, neuron_W + half].float() for half in (0, F))
    own_DW = experts.down_proj[expert_W, :, neuron_W].float().T * seen.mean_weights(E)[expert_W]
    x_ND = seen.x_ND.float()
    hidden_NW = experts.act_fn(x_ND @ gate_WD.T) * (x_ND @ up_WD.T)
    change_DW = _fit(hidden_NW, seen.y_ND.float() - hidden_NW @ own_DW.T)
    return Mlp(gate_WD, up_WD, own_DW + change_DW)


def _fit(hidden_NW: Tensor, missed_ND: Tensor) -> Tensor:
    """Output weights [D, W] for what is missed, by ridge regression.

    Its pull is the one that, fitted to three quarters of the tokens, misses least of the last: with few tokens for many
    neurons a weak one would learn noise.
    """
    split = len(hidden_NW) * 3 // 4
    first, rest = slice(None, split), slice(split, None)
    first_WW, first_WD = hidden_NW[first].T @ hidden_NW[first], hidden_NW[first].T @ missed_ND[first]

    def error(pull: float) -> float:
        return float((missed_ND[rest] - hidden_NW[rest] @ _solve(first_WW, first_WD, pull)).square().sum())

    pull = min(_RIDGES, key=error)
    return _solve(hidden_NW.T @ hidden_NW, hidden_NW.T @ missed_ND, pull).T


def _solve(square_WW: Tensor, product_WD: Tensor, pull: float) -> Tensor:
    square_WW = square_WW.double()
    square_WW.diagonal().add_(pull * square_WW.diagonal().mean() + 1e-12)
    return torch.linalg.solve(square_WW, product_WD.double()).float()


def _output(experts: Any, seen: Seen, expert: int) -> Tensor:
    """Root of the summed squares of what each neuron [F] of an expert adds to the layer's output."""
    token_M, place_M = torch.where(seen.expert_NK == expert)
    x_MD, weight_M = seen.x_ND[token_M].float(), seen.weight_NK[token_M, place_M].float()
    gate_MF, up_MF = (x_MD @ experts.gate_up_proj[expert].float().T).chunk(2, -1)
    hidden_MF = weight_M[:, None] * experts.act_fn(gate_MF) * up_MF
    return hidden_MF.square().sum(0).sqrt() * experts.down_proj[expert].float().norm(dim=0)


def entropy_share(weight_E: Tensor) -> float:
    """Entropy of a routing, as a share of the largest (1: all experts alike)."""
    p_E = weight_E / weight_E.sum()
    return float(-torch.xlogy(p_E, p_E).sum() / math.log(len(p_E))) if len(p_E) > 1 else 1.0


@torch.no_grad()
def mean_kl(whole: Any, other: Any, texts: list[list[int]]) -> float:
    """Mean KL(whole || other) in nats a token."""
    total, tokens = 0.0, 0
    for text in texts:
        ids = torch.tensor([text])
        p, q = (model(input_ids=ids, use_cache=False).logits.float().log_softmax(-1) for model in (whole, other))
        total += float((p.exp() * (p - q)).sum())
        tokens += len(text)
    return total / tokens
