"""What can be done with a family of models, from its configuration alone. No torch.

Tested, expert-parallel in both dispatches against one process: Qwen2-MoE, Qwen3-MoE, Mixtral, OLMoE, GPT-OSS,
DeepSeek-V3, Granite-MoE, GLM-4-MoE, MiniMax-M2, ERNIE-4.5-MoE, Hunyuan and Dots1; with layers that keep states,
Qwen3-Next, Qwen3.5-MoE, Granite-4-H, Nemotron-H, LFM2-MoE and Kimi-Linear (test_expert_parallel.py). Others that
transformers has an expert-parallel plan for are let through; what no plan or cache of ours can do is refused with its
reason.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

from workers.model_files import expert_count, text_settings
from workers.sources import package_folder

_CACHED_LAYERS = {"full_attention", "sliding_attention", "attention"}
"""Kinds of layers whose memory is the keys and values of their tokens, which slots hold (slots.py)."""

_STATE_LAYERS = {"linear_attention", "mamba", "conv"}
"""Kinds of layers whose memory is a state of the whole text, a row of a slot (states.py)."""

_NO_MEMORY = {"moe", "mlp"}
"""Kinds of layers that look at one token at a time."""


def check_teacher_family(where: str, model: str, model_config: dict[str, Any], *, ep_size: int, gpus: float) -> None:
    """Raise ValueError, naming `where` in the settings, if the model cannot be loaded and split as they say."""
    kind = model_config.get("model_type")
    _check_quantised(where, model, model_config, ep_size, gpus)
    if ep_size == 1:
        return
    experts = expert_count(model_config)
    if experts == 0:
        raise ValueError(
            f"{where}.ep_size: {ep_size}, but {model!r} is a dense model ({kind}): a dense teacher takes ep_size 1 "
            "(and more replicas)"
        )
    if experts % ep_size:
        divisors = [d for d in range(1, experts + 1) if experts % d == 0]
        raise ValueError(
            f"{where}.ep_size: {ep_size} does not divide the {experts} experts of {model!r}; use one of {divisors}"
        )
    if not _says(str(kind), "configuration", "base_model_ep_plan"):
        raise ValueError(
            f"{where}.ep_size: {ep_size}, but the installed transformers has no expert-parallel plan for {kind} "
            f"({model!r}); use ep_size 1 and more replicas"
        )


def why_not_generate(model_config: dict[str, Any]) -> str | None:
    """Why a model can score given text but not answer, or None if it can, as far as its configuration tells."""
    kind = str(model_config.get("model_type"))
    text_config = text_settings(model_config)
    layers = set(_kinds_of_layers(text_config))
    if others := sorted(layers - _CACHED_LAYERS - _STATE_LAYERS - _NO_MEMORY):
        return (
            f"{kind} has layers of {', '.join(others)}, which remember neither keys and values by token nor a state "
            "alone: answers cannot grow in slots"
        )
    if layers & _STATE_LAYERS and not _says(kind, "modeling", ".get_conv_state("):
        return f"{kind} keeps its layers' states in a cache of its own: answers cannot grow in slots"
    low, high = text_config.get("time_step_limit") or (0, math.inf)
    if layers & _STATE_LAYERS and (low != 0 or (isinstance(high, int | float) and math.isfinite(high))):
        return (
            f"{kind} limits step sizes (time_step_limit: {low} to {high}), which transformers does over a prompt, but "
            "not token by token: an answer would have other distributions than the same text when it is scored"
        )
    return None


def layers_that_remember(model_config: dict[str, Any]) -> tuple[int, int]:
    """How many layers keep keys and values of each token, and how many a state of the whole text, as far as a
    model's configuration tells: all of them the former where it names no kinds."""
    text_config = text_settings(model_config)
    if not (kinds := _kinds_of_layers(text_config)):
        return int(text_config.get("num_hidden_layers") or 0), 0
    return sum(kind in _CACHED_LAYERS for kind in kinds), sum(kind in _STATE_LAYERS for kind in kinds)


def kv_cache_bytes(config: dict[str, Any], tokens: int, width: int) -> int:
    """Bytes of the keys and values of so many tokens."""
    text = text_settings(config)
    heads, (layers, _) = text.get("num_attention_heads", 1), layers_that_remember(config)
    head = text.get("head_dim") or text.get("hidden_size", 0) // max(heads, 1)
    return 2 * tokens * layers * (text.get("num_key_value_heads") or heads) * head * width


def _kinds_of_layers(text_config: dict[str, Any]) -> list[str]:
    return [str(kind) for kind in text_config.get("layer_types") or text_config.get("layers_block_type") or []]


def quantisation(model_config: dict[str, Any]) -> dict[str, Any] | None:
    """What a model's config.json says of its quantised weights; None where they are not."""
    found = model_config.get("quantization_config") or text_settings(model_config).get("quantization_config")
    return (found if isinstance(found, dict) else {}) if found else None


def _check_quantised(where: str, model: str, model_config: dict[str, Any], ep_size: int, gpus: float) -> None:
    quantised = quantisation(model_config)
    if quantised is None:
        return
    method = quantised.get("quant_method", "of some kind")
    if gpus == 0 and method in _GPU_METHODS:
        raise ValueError(
            f"{where}.model: the weights of {model!r} are quantised ({method}), which runs on GPUs only; set "
            f"{where}.gpus_per_rank, or take an unquantised copy"
        )
    if (reason := why_not_as_quantised(quantised)) is not None:
        raise ValueError(
            f"{where}.model: the weights of {model!r} are quantised ({method}), and {reason}; set {where}.engine to "
            "vllm, or take an unquantised copy"
        )
    if ep_size > 1:
        raise ValueError(
            f"{where}.ep_size: {ep_size}, but the weights of {model!r} are quantised ({method}), and quantised experts "
            "are not split over ranks; use ep_size 1, or an unquantised copy"
        )


_GPU_METHODS = {"mxfp4", "fp8", "mxfp8", "fbgemm_fp8", "nvfp4", "awq", "gptq"}
"""Kinds of quantised weights whose kernels are for GPUs."""


def why_not_as_quantised(quantised: dict[str, Any]) -> str | None:
    """Why transformers would not run weights as they are quantised wherever it runs, or None."""
    method = quantised.get("quant_method")
    if method == "compressed-tensors":
        return "transformers decompresses these in the first forward pass, to several times the memory"
    if quantised.get("dequantize"):
        return "its config.json has transformers dequantise them (dequantize: true)"
    if method is not None and not _known_method(str(method)):
        return "the installed transformers does not know that kind"
    return None


def _known_method(method: str) -> bool:
    folder = package_folder("transformers")
    path = folder / "quantizers" / "auto.py" if folder is not None else None
    if method == "bitsandbytes" or path is None or not path.exists():
        return True
    return f'"{method}":' in path.read_text(encoding="utf-8")


@lru_cache
def _says(model_type: str, kind: str, text: str) -> bool:
    """Whether the installed transformers' file of some kind on a model type has a text; imports none of them. True
    where it has no such file: code that comes with a model may be anything."""
    folder = package_folder("transformers")
    if folder is None:
        return True
    files = list((folder / "models" / model_type.replace("-", "_")).glob(f"{kind}_*.py"))
    return not files or any(text in path.read_text(encoding="utf-8") for path in files)
