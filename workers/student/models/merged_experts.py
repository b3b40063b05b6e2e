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

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from workers.streaming.layered_model import Call, LayeredModel
from workers.student.models.dense_files import DenseFiles, DenseInTheMaking, Mlp, Others
from workers.student.models.dense_sibling import active_width, expert_width, why_not_merge

_RIDGES = (10.0, 1.0, 0.1, 0.01, 0.001)
"""Pulls towards the experts' own output weights, as shares of the neurons' mean square, of which the best is taken."""

_HELDOUT = 4
"""Every so many texts one is not fitted to, so that the KL found on it is honest."""


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


@dataclass(frozen=True)
class Merge:
    """A dense model that is asked for. `how` is `average`, `neurons` (so many as `width` says, or as a token's experts
    have) or `auto`; `texts` are what it is measured on and fitted to. The mixture runs the texts `aside` [B, S] too."""

    how: str
    width: int | None
    texts: list[list[int]]
    aside: Tensor | None = None


@dataclass
class Merged:
    """A dense model, what was found out about it, and the texts `aside` behind the mixture's last layer."""

    files: DenseFiles
    facts: dict[str, Any]
    aside: Call | None


@torch.no_grad()
def merge_experts(mixture: LayeredModel, asked: list[Merge], folder: Path) -> list[Merged]:
    """Dense siblings of a mixture, each for its own texts, in one pass over the mixture's layers. Their files are below
    `folder`; facts are the KL to the mixture in nats a token on texts that were not fitted to, and the routing's
    entropy by layer (1: all experts alike). Raises ValueError where there is none.

    Weights are the mixture's in type; dense models are measured in float32.
    """
    if reason := why_not_merge(mixture.config.to_dict()):
        raise ValueError(f"model.merge_experts: {reason}")
    if not all(merge.texts for merge in asked):
        raise ValueError("model.merge_experts: no training text to measure the routing on")
    others = Others.of(mixture)
    works = [_Work(mixture, merge, others, folder / str(i)) for i, merge in enumerate(asked)]
    for index, layer in mixture.layers():
        for work in works:
            work.take(index, layer)
    return [work.result() for work in works]


class _Work:
    """One dense model in the making: the texts in the mixture, and in every way to merge it."""

    def __init__(self, mixture: LayeredModel, merge: Merge, others: Others, folder: Path) -> None:
        settings = mixture.config.to_dict()
        wide = merge.width or active_width(settings)
        ways: dict[str, tuple[int, Callable[[Any, Seen], Mlp]]] = {}
        if merge.how != "neurons":
            ways["average"] = expert_width(settings), average
        if merge.how != "average":
            ways["neurons"] = wide, lambda experts, seen: neurons(experts, seen, wide)
        self._mixture, self._texts = mixture, merge.texts
        self._fitted = [i for i in range(len(merge.texts)) if i % _HELDOUT] or list(range(len(merge.texts)))
        self._calls = begin_all(mixture, merge.texts)
        self._aside = None if merge.aside is None else mixture.begin(input_ids=merge.aside, use_cache=False)
        self._ways = {
            name: (way, DenseInTheMaking(mixture, width, merge.texts[::_HELDOUT], others, folder / name))
            for name, (width, way) in ways.items()
        }
        self._entropy: list[float] = []
        self._experts = 0

    def take(self, index: int, layer: Any) -> None:
        """Let the texts pass the mixture's next layer, and make that layer of the dense models."""
        seen = watch(layer, index, self._calls, self._fitted)
        if self._aside is not None:
            self._aside.run(layer, index)
        experts = experts_of(layer)
        self._experts = len(experts.down_proj)
        self._entropy.append(round(entropy_share(seen.mean_weights(self._experts)), 4))
        for way, dense in self._ways.values():
            dense.take(index, layer, way(experts, seen))

    def result(self) -> Merged:
        """The way with the least KL; files of the others are deleted."""
        measured = self._calls[::_HELDOUT]
        kl = {name: dense.kl(self._mixture, measured) for name, (_, dense) in self._ways.items()}
        best = min(kl, key=kl.__getitem__)
        for name, (_, dense) in self._ways.items():
            if name != best:
                dense.files.delete()
        files = self._ways[best][1].files
        facts = {
            "merged": best,
            "merged_experts": self._experts,
            "merged_width": files.config.intermediate_size,
            "merged_on_tokens": sum(len(self._texts[i]) for i in self._fitted),
            "routing_entropy": self._entropy,
            "kl_to_mixture": kl[best],
            "kl_of_merges": kl,
        }
        return Merged(files, facts, self._aside)


def experts_of(layer: Any) -> Any:
    """The module of a decoder layer that holds its experts' weights: gate_up_proj [E, 2F, D], down_proj [E, D, F]."""
    return next(m for m in layer.modules() if getattr(getattr(m, "gate_up_proj", None), "ndim", 0) == 3)


def begin_all(model: LayeredModel, texts: list[list[int]]) -> list[Call]:
    """Texts, each alone, before a model's first layer."""
    return [model.begin(input_ids=torch.tensor([text]), use_cache=False) for text in texts]


@torch.no_grad()
def watch(layer: Any, index: int, calls: list[Call], noted: list[int]) -> Seen:
    """Run a layer on texts; what passes through its experts of those that are `noted`."""
    wanted, now = set(noted), -1
    parts: list[Seen] = []

    def note(_: Any, args: tuple[Tensor, Tensor, Tensor], y_ND: Tensor) -> None:
        if now in wanted:
            x_ND, expert_NK, weight_NK = args
            parts.append(Seen(x_ND, y_ND.reshape(x_ND.shape), expert_NK, weight_NK))

    hook = experts_of(layer).register_forward_hook(note)
    try:
        for now, call in enumerate(calls):  # noqa: B007 - `note` reads it
            call.run(layer, index)
    finally:
        hook.remove()
    names = ("x_ND", "y_ND", "expert_NK", "weight_NK")
    return Seen(*(torch.cat([getattr(part, name) for part in parts]) for name in names))


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
