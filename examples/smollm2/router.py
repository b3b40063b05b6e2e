"""First routers of the MoE, read off the dense model's hidden states, and what routers choose.

At each layer's MLP input the three domains have different mean states. Router row e points from the
mean over all domains to the mean of expert e's domain; expert 0, the generalist, gets the zero row.
A token that looks like no domain in particular thus goes to expert 0, and one that looks medical to
the medical expert first.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from text import Tokens
from torch import Tensor, nn
from transformers import LlamaForCausalLM, MixtralForCausalLM

# Share of the mean variance added to every direction: hidden states of a small sample do not fill
# the space, and unshrunk covariances would blow up the directions they miss.
SHRINKAGE = 0.1


class MlpInputs:
    """Sums of each layer's MLP inputs and of their outer products, while a forward hook listens."""

    def __init__(self, layers: int, width: int) -> None:
        self.count = 0
        self.sums = torch.zeros(layers, width, dtype=torch.float64)
        self.squares = torch.zeros(layers, width, width, dtype=torch.float64)

    def add(self, layer: int, states: Tensor) -> None:
        """states: (tokens, width)."""
        states = states.double()
        self.count += len(states) if layer == 0 else 0
        self.sums[layer] += states.sum(0)
        self.squares[layer] += states.T @ states

    def mean(self) -> Tensor:
        """(layers, width)."""
        return self.sums / self.count

    def covariance(self) -> Tensor:
        """(layers, width, width)."""
        mean = self.mean()
        return self.squares / self.count - mean[:, :, None] * mean[:, None, :]


@torch.no_grad()
def mlp_inputs(dense: LlamaForCausalLM, rows: list[Tokens], budget: int) -> MlpInputs:
    """The MLP inputs of `rows`, prompt and answer positions, until `budget` tokens are seen."""
    layers = dense.model.layers
    found = MlpInputs(len(layers), dense.config.hidden_size)
    start = 0

    def listen(layer: int) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            found.add(layer, inputs[0][0, start:])

        return hook

    handles = [layer.mlp.register_forward_pre_hook(listen(number)) for number, layer in enumerate(layers)]
    try:
        for row in rows:
            if found.count >= budget:
                break
            start = row.prompt_start
            dense.model(input_ids=torch.tensor([row.ids]))
    finally:
        for handle in handles:
            handle.remove()
    return found


def first_routers(inputs: list[MlpInputs], strength: float) -> list[Tensor]:
    """One router weight (1 + domains, width) a layer.

    inputs: one a domain, in expert order. strength: mean logit of a domain's tokens for its own expert,
    counted from the mean of all domains; expert 0 stands at logit 0.
    """
    means = torch.stack([domain.mean() for domain in inputs])
    within = torch.stack([domain.covariance() for domain in inputs]).mean(0)
    routers = []
    for layer in range(means.shape[1]):
        centre = means[:, layer].mean(0)
        offsets = means[:, layer] - centre
        spread = within[layer] + SHRINKAGE * within[layer].diagonal().mean() * torch.eye(len(centre))
        # Directions that vary much within every domain (position, punctuation) say little: weigh by
        # the inverse covariance. Then remove the part along the centre, since a router has no bias
        # and would otherwise add the same number to every token's logit.
        rows = torch.linalg.solve(spread, offsets.T).T
        unit = centre / centre.norm()
        rows = rows - (rows @ unit)[:, None] * unit
        rows = rows * (strength / (rows * offsets).sum(1).clamp_min(1e-12))[:, None]
        routers.append(torch.cat([torch.zeros_like(rows[:1]), rows]).float())
    return routers


@torch.no_grad()
def routing_shares(moe: MixtralForCausalLM, rows: list[Tokens]) -> tuple[Tensor, Tensor]:
    """(share of the top-k places, share of the gate weight) of each expert on `rows`.

    Both (layers, experts), each layer's shares summing to 1; prompt and answer positions count.
    """
    layers, experts, top_k = (
        moe.config.num_hidden_layers,
        moe.config.num_local_experts,
        moe.config.num_experts_per_tok,
    )
    places, weights = torch.zeros(layers, experts), torch.zeros(layers, experts)
    for row in rows:
        output = moe(input_ids=torch.tensor([row.ids]), output_router_logits=True)
        for layer, logits in enumerate(output.router_logits):
            values, chosen = logits[row.prompt_start :].float().softmax(-1).topk(top_k)
            places[layer] += torch.bincount(chosen.flatten(), minlength=experts)
            weights[layer].index_add_(0, chosen.flatten(), (values / values.sum(-1, keepdim=True)).flatten())
    return places / places.sum(1, keepdim=True), weights / weights.sum(1, keepdim=True)
