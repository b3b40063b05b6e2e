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


def drop_layers(model: Any, which: int | list[int], sample_ids: list[list[int]]) -> tuple[list[int], float]:
    """Take decoder layers out of a model, in place. A number takes, one after another, the layer whose removal leaves
    the smallest KL to the whole model on the sample texts. Returns the original indices taken and the final KL."""
    decoder = model.get_decoder()
    layers = list(decoder.layers)
    whole = [_log_probabilities(model, ids) for ids in sample_ids]
    kept = list(range(len(layers)))
    if isinstance(which, list):
        for index in which:
            if index not in kept:
                raise ValueError(f"model.drop_layers: {index} is not one of the {len(layers)} layers")
        kept = [i for i in kept if i not in which]
    else:
        if which >= len(layers):
            raise ValueError(f"model.drop_layers: {which} of {len(layers)} layers would leave nothing")
        for _ in range(which):
            kept = min(
                ([k for k in kept if k != i] for i in kept), key=lambda c: _kl_with(model, layers, c, whole, sample_ids)
            )
    kl = _kl_with(model, layers, kept, whole, sample_ids)
    config = model.config
    config.num_hidden_layers = len(kept)
    if getattr(config, "layer_types", None):
        config.layer_types = [config.layer_types[i] for i in kept]
    return [i for i in range(len(layers)) if i not in kept], kl


@torch.no_grad()
def _kl_with(
    model: Any, layers: list[nn.Module], kept: list[int], whole: list[torch.Tensor], sample_ids: list[list[int]]
) -> float:
    """Mean KL(whole || model with only the kept layers), nats a token. Leaves the model with these layers."""
    model.get_decoder().layers = nn.ModuleList(layers[i] for i in kept)
    model.config.num_hidden_layers = len(kept)
    total, tokens = 0.0, 0
    for logp_SV, ids in zip(whole, sample_ids, strict=True):
        other_SV = _log_probabilities(model, ids)
        total += float((logp_SV.exp() * (logp_SV - other_SV)).sum())
        tokens += len(ids)
    return total / max(tokens, 1)


@torch.no_grad()
def _log_probabilities(model: Any, ids: list[int]) -> torch.Tensor:
    return model(input_ids=torch.tensor([ids]), use_cache=False).logits[0].float().log_softmax(-1)
