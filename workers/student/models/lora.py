"""Low-rank adapters on a student's linear layers, by peft: added before training, merged into the weights after it.

A layer W x becomes W x + (alpha / rank) B A x (LoRA, arXiv 2106.09685, section 4.1): A is random, B is 0, so training
begins at the model as it is. Only A and B have gradients and optimiser state.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from workers.student.config import LoraConfig

_ADAPTER = "default"
"""peft's own name for the one adapter of a model."""


def add_adapters(causal_lm: Any, lora: LoraConfig, seed: int) -> None:
    """Give the decoder's linear layers adapters, in place, and freeze all else. Equal on all ranks for one seed.

    Raises ValueError for targets that are not there.
    """
    from peft import inject_adapter_in_model

    names = target_names(causal_lm, lora.targets)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject_adapter_in_model(_peft_config(lora, names), causal_lm)
    for name, parameter in causal_lm.named_parameters():
        parameter.requires_grad_(_is_adapter(name))


def target_names(causal_lm: Any, targets: list[str]) -> list[str]:
    """Full names of the decoder's linear layers that get an adapter."""
    layers = causal_lm.get_decoder().layers
    prefix = next(name for name, module in causal_lm.named_modules() if module is layers)
    linear = [f"{prefix}.{name}" for name, module in layers.named_modules() if isinstance(module, nn.Linear)]
    there = sorted({_last(name) for name in linear})
    if missing := [t for t in targets if t not in there]:
        raise ValueError(f"model.lora.targets: {missing} are no linear layers of the decoder; there are {there}")
    return [name for name in linear if not targets or _last(name) in targets]


def merge_adapters(state: dict[str, Tensor], lora: LoraConfig) -> dict[str, Tensor]:
    """Whole weights with their adapters in them, under the names of a model that never had any."""
    merged: dict[str, Tensor] = {}
    for name, weight in state.items():
        if _is_adapter(name):
            continue
        if name.endswith(".base_layer.weight"):
            A_RI, B_OR = (state[name.replace("base_layer", f"lora_{side}.{_ADAPTER}")] for side in "AB")
            change_OI = (lora.alpha / lora.rank) * (B_OR.float() @ A_RI.float())
            weight = (weight.float() + change_OI).to(weight.dtype)
        merged[name.replace(".base_layer.", ".")] = weight
    return merged


def save_adapter(state: dict[str, Tensor], lora: LoraConfig, base: str, folder: Path) -> None:
    """The adapter alone, as peft loads it; `base` is said to be the model that it goes with."""
    from safetensors.torch import save_file

    own = {f"base_model.model.{n.replace(f'.{_ADAPTER}.', '.')}": w for n, w in state.items() if _is_adapter(n)}
    names = sorted({n.removeprefix("base_model.model.").rsplit(".lora_", 1)[0] for n in own})
    config = _peft_config(lora, names)
    config.base_model_name_or_path = base
    config.inference_mode = True
    config.save_pretrained(str(folder))
    save_file({name: weight.contiguous() for name, weight in own.items()}, folder / "adapter_model.safetensors")


def _peft_config(lora: LoraConfig, names: list[str]) -> Any:
    from peft import LoraConfig as PeftLoraConfig

    return PeftLoraConfig(
        r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=names, task_type="CAUSAL_LM"
    )


def _is_adapter(name: str) -> bool:
    return f".{_ADAPTER}." in name and ".lora_" in name


def _last(name: str) -> str:
    return name.rsplit(".", 1)[-1]
