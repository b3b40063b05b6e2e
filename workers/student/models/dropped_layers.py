"""Decoder layers taken out of a model: those that are named, or those whose removal raises the KL least."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

Layer = tuple[nn.Module, str | None]
"""A decoder layer and its kind of attention, where a model has several."""


_TEXTS, _TOKENS = 4, 64
"""Texts, and tokens of each at most, on which layers are measured."""


def drop_layers(
    model: Any, which: int | list[int], sample_ids: list[list[int]], whole_BSV: torch.Tensor | None = None
) -> tuple[list[int], float]:
    """Take decoder layers out of a model, in place. A number takes, one after another, the layer whose removal leaves
    the smallest KL to the whole model on the sample texts. Returns the original indices taken and the final KL.

    `whole_BSV` are log-probabilities on `rectangle(sample_ids)` of the model to stay close to, where it is not `model`
    itself. Weights keep their type, and are float32 while they are computed with.
    """
    modules = list(model.get_decoder().layers)
    kinds = getattr(model.config, "layer_types", None) or [None] * len(modules)
    layers: list[Layer] = list(zip(modules, kinds, strict=True))
    kept = list(range(len(layers)))
    drop = len(which) if isinstance(which, list) else which
    if (isinstance(which, list) and not set(which) <= set(kept)) or drop >= len(layers):
        raise ValueError(
            f"model.drop_layers: {which} of {len(layers)} layers would leave nothing, or are not all there"
        )
    ids_BS = rectangle(sample_ids)
    with _in_float32(model):
        if whole_BSV is None:
            whole_BSV = log_probabilities(model, ids_BS)
        if isinstance(which, list):
            kept = [i for i in kept if i not in which]
        else:
            for _ in range(which):
                kept.remove(_least_missed(model, layers, kept, ids_BS, whole_BSV))
        logp_BSV, _ = _forward(model, [layers[i] for i in kept], ids_BS)
    return [i for i in range(len(layers)) if i not in kept], _kl(whole_BSV, logp_BSV)


@contextmanager
def _in_float32(model: Any) -> Iterator[None]:
    """For the length of a block, weights are float32 while they are at work: those of a layer in its own forward pass
    alone, so that a model in bfloat16 is never twice as large."""
    narrow: dict[nn.Module, list[tuple[nn.Parameter, torch.Tensor]]] = {}

    def widen(module: nn.Module, *_: Any) -> None:
        narrow[module] = [(p, p.data) for p in module.parameters() if p.is_floating_point()]
        for parameter, own in narrow[module]:
            parameter.data = own.float()

    def restore(module: nn.Module, *_: Any) -> None:
        for parameter, own in narrow.pop(module):
            parameter.data = own

    layers = list(model.get_decoder().layers)
    of_layers = {id(parameter) for layer in layers for parameter in layer.parameters()}
    others = nn.ParameterList(p for p in model.parameters() if id(p) not in of_layers)
    hooks = [layer.register_forward_pre_hook(widen) for layer in layers]
    hooks += [layer.register_forward_hook(restore) for layer in layers]
    widen(others)
    try:
        yield
    finally:
        restore(others)
        for hook in hooks:
            hook.remove()


class _Given(nn.Module):
    """Stands for all layers before one: gives the hidden states that they make."""

    def __init__(self, hidden_BSD: torch.Tensor) -> None:
        super().__init__()
        self._hidden_BSD = hidden_BSD

    def forward(self, *_: Any, **__: Any) -> torch.Tensor:
        return self._hidden_BSD


def _least_missed(
    model: Any, layers: list[Layer], kept: list[int], ids_BS: torch.Tensor, whole_BSV: torch.Tensor
) -> int:
    """The kept layer whose removal leaves the smallest KL. Layers before it run once for all candidates."""
    _, inputs = _forward(model, [layers[i] for i in kept], ids_BS)

    def without(place: int) -> float:
        before: Layer = (_Given(inputs[place]), layers[kept[place]][1])
        return _kl(whole_BSV, _forward(model, [before, *(layers[i] for i in kept[place + 1 :])], ids_BS)[0])

    return kept[min(range(len(kept)), key=without)]


@torch.no_grad()
def _forward(model: Any, layers: list[Layer], ids_BS: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Log-probabilities [B, S, V] with just these layers (which the model then has), and what each layer is given."""
    model.get_decoder().layers = nn.ModuleList(module for module, _ in layers)
    model.config.num_hidden_layers = len(layers)
    if layers[0][1] is not None:
        model.config.layer_types = [kind for _, kind in layers]
    inputs: list[torch.Tensor] = []
    hooks = [module.register_forward_pre_hook(lambda _, args: inputs.append(args[0])) for module, _ in layers]
    logp_BSV = log_probabilities(model, ids_BS)
    for hook in hooks:
        hook.remove()
    return logp_BSV, inputs


@torch.no_grad()
def log_probabilities(model: Any, ids_BS: torch.Tensor) -> torch.Tensor:
    """What a model makes of texts, float32 [B, S, V]."""
    return model(input_ids=ids_BS, use_cache=False).logits.float().log_softmax(-1)


def _kl(whole_BSV: torch.Tensor, other_BSV: torch.Tensor) -> float:
    """Mean KL(whole || other) in nats a token."""
    return float((whole_BSV.exp() * (whole_BSV - other_BSV)).sum(-1).mean())


def rectangle(sample_ids: list[list[int]]) -> torch.Tensor:
    """The longest texts as one batch [B, S], each cut to the shortest of them: enough to rank layers by."""
    texts = sorted(sample_ids, key=len)[-_TEXTS:]
    shortest = min([_TOKENS, *(len(ids) for ids in texts)]) if texts else 0
    if shortest < 2:
        raise ValueError("model.drop_layers: no training text of two tokens to measure layers on")
    return torch.tensor([ids[:shortest] for ids in texts])
