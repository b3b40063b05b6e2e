"""A student's initial weights, made once and kept: its control starts from the same ones, and they are measured too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from workers.model_files import model_folder
from workers.student.config import ModelConfig


def make_initial(
    config: ModelConfig, out: Path, *, vocabulary: int, seed: int, sample_ids: list[list[int]]
) -> dict[str, Any]:
    """Write a student's initial weights to a safetensors folder; returns facts (parameters, layers dropped).

    `vocabulary` is the tokenizer's number of ids. `sample_ids` are texts for measuring which layers matter least.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    facts: dict[str, Any] = {}
    if config.config is not None:
        sizes = {k: v for k, v in config.config.items() if k != "model_type"}
        sizes.setdefault("vocab_size", vocabulary)
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(config.config["model_type"], **sizes))
    else:
        folder = model_folder(str(config.base), config.revision)
        model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, trust_remote_code=config.trust_remote_code
        )
        if config.drop_layers:
            facts["dropped_layers"], facts["kl_to_base"] = drop_layers(model, config.drop_layers, sample_ids)
    if model.config.vocab_size < vocabulary:
        raise ValueError(
            f"model: its vocabulary of {model.config.vocab_size} cannot hold the tokenizer's {vocabulary} ids"
        )
    model.save_pretrained(out)
    return {**facts, "parameters": sum(p.numel() for p in model.parameters()), "layers": model.config.num_hidden_layers}


Layer = tuple[nn.Module, str | None]
"""A decoder layer and its kind of attention, where a model has several."""


def drop_layers(model: Any, which: int | list[int], sample_ids: list[list[int]]) -> tuple[list[int], float]:
    """Take decoder layers out of a model, in place. A number takes, one after another, the layer whose removal leaves
    the smallest KL to the whole model on the sample texts. Returns the original indices taken and the final KL."""
    modules = list(model.get_decoder().layers)
    kinds = getattr(model.config, "layer_types", None) or [None] * len(modules)
    layers: list[Layer] = list(zip(modules, kinds, strict=True))
    kept = list(range(len(layers)))
    drop = len(which) if isinstance(which, list) else which
    if (isinstance(which, list) and not set(which) <= set(kept)) or drop >= len(layers):
        raise ValueError(
            f"model.drop_layers: {which} of {len(layers)} layers would leave nothing, or are not all there"
        )
    ids_BS = _rectangle(sample_ids)
    whole_BSV, _ = _forward(model, layers, ids_BS)
    if isinstance(which, list):
        kept = [i for i in kept if i not in which]
    else:
        for _ in range(which):
            kept.remove(_least_missed(model, layers, kept, ids_BS, whole_BSV))
    logp_BSV, _ = _forward(model, [layers[i] for i in kept], ids_BS)
    return [i for i in range(len(layers)) if i not in kept], _kl(whole_BSV, logp_BSV)


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
    logits_BSV = model(input_ids=ids_BS, use_cache=False).logits
    for hook in hooks:
        hook.remove()
    return logits_BSV.float().log_softmax(-1), inputs


def _kl(whole_BSV: torch.Tensor, other_BSV: torch.Tensor) -> float:
    """Mean KL(whole || other) in nats a token."""
    return float((whole_BSV.exp() * (whole_BSV - other_BSV)).sum(-1).mean())


def _rectangle(sample_ids: list[list[int]]) -> torch.Tensor:
    """The texts as one batch [B, S], each cut to the shortest: enough to rank layers by."""
    shortest = min((len(ids) for ids in sample_ids), default=0)
    if shortest < 2:
        raise ValueError("model.drop_layers: no training text of two tokens to measure layers on")
    return torch.tensor([ids[:shortest] for ids in sample_ids])
