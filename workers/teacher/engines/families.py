"""What can be done with a family of models, from its configuration alone. No torch.

Tested, expert-parallel in both dispatches against one process: Qwen3-MoE, Mixtral, OLMoE, GPT-OSS, DeepSeek-V3,
Granite-MoE (test_expert_parallel.py). Others that transformers has an expert-parallel plan for are let
through; what no plan or cache of ours can do is refused with its reason.
"""

from __future__ import annotations

import importlib.util
from functools import lru_cache
from pathlib import Path
from typing import Any

from workers.model_files import expert_count

_CACHED_LAYERS = {"full_attention", "sliding_attention"}
"""Kinds of layers whose memory is the keys and values of their tokens, which slots hold (slots.py)."""


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
    if not _declares(str(kind), "base_model_ep_plan"):
        raise ValueError(
            f"{where}.ep_size: {ep_size}, but the installed transformers has no expert-parallel plan for {kind} "
            f"({model!r}); use ep_size 1 and more replicas"
        )


def why_not_generate(model_config: dict[str, Any]) -> str | None:
    """Why a model can score given text but not answer, or None if it can."""
    kinds = model_config.get("layer_types") or model_config.get("layers_block_type") or []
    others = sorted({str(k) for k in kinds} - _CACHED_LAYERS)
    if not others:
        return None
    return (
        f"{model_config.get('model_type')} has layers of {', '.join(others)}, which do not remember keys and values by "
        "token: answers cannot grow in slots"
    )


def _check_quantised(where: str, model: str, model_config: dict[str, Any], ep_size: int, gpus: float) -> None:
    quantised = model_config.get("quantization_config")
    if not quantised:
        return
    method = quantised.get("quant_method", "of some kind") if isinstance(quantised, dict) else "of some kind"
    if gpus == 0 and method in _GPU_METHODS:
        raise ValueError(
            f"{where}.model: the weights of {model!r} are quantised ({method}), which runs on GPUs only; set "
            f"{where}.gpus_per_rank, or take an unquantised copy"
        )
    if ep_size > 1:
        raise ValueError(
            f"{where}.ep_size: {ep_size}, but the weights of {model!r} are quantised ({method}), and quantised experts "
            "are not split over ranks; use ep_size 1, or an unquantised copy"
        )


_GPU_METHODS = {"mxfp4", "fp8", "fbgemm_fp8", "nvfp4", "awq", "gptq"}
"""Kinds of quantised weights whose kernels are for GPUs."""


@lru_cache
def _declares(model_type: str, attribute: str) -> bool:
    """Whether the installed transformers' configuration of a model type names an attribute; reads its files only."""
    spec = importlib.util.find_spec("transformers")
    if spec is None or not spec.origin:
        return True
    folder = Path(spec.origin).parent / "models" / model_type.replace("-", "_")
    files = list(folder.glob("configuration_*.py"))
    return not files or any(attribute in path.read_text(encoding="utf-8") for path in files)
