"""The dense architecture that is a mixture of experts but for its experts. From configurations alone; no torch.

A family is here if its sibling computes the same logits once all experts of a layer are one and their weights sum to 1
(tests/workers/student/models/test_merged_experts.py).
"""

from __future__ import annotations

from typing import Any

SIBLINGS = {"qwen3_moe": "qwen3", "mixtral": "mistral", "granitemoe": "granite", "flex_olmo": "olmo2"}
"""Mixtures of experts and the dense architecture of each."""

_WITHOUT = {
    "olmoe": "its norms come before attention and span all heads, which no dense architecture of transformers has",
    "gpt_oss": "its attention sinks and biased experts are in no dense architecture of transformers",
    "deepseek_v3": "its attention by latents is in no dense architecture of transformers",
    "deepseek_v2": "its attention by latents is in no dense architecture of transformers",
    "qwen2_moe": "its shared expert is weighted anew for every token, which no dense MLP does",
    "qwen3_next": "its shared expert is weighted anew for every token, which no dense MLP does",
}

_KEPT = (
    "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "hidden_act",
    "max_position_embeddings", "initializer_range", "rms_norm_eps", "tie_word_embeddings", "rope_parameters",
    "rope_theta", "rope_scaling", "attention_bias", "attention_dropout", "bos_token_id", "eos_token_id", "pad_token_id",
    "embedding_multiplier", "logits_scaling", "residual_multiplier", "attention_multiplier",
)  # fmt: skip
"""Settings that mean the same in both; the rest is of experts, or said by `dense_config`."""


def expert_width(moe: dict[str, Any]) -> int:
    """Neurons of one expert."""
    return int(moe.get("moe_intermediate_size") or moe.get("intermediate_size") or 0)


def active_width(moe: dict[str, Any]) -> int:
    """Neurons of all experts that one token is sent to."""
    return expert_width(moe) * int(moe.get("num_experts_per_tok") or 1)


def dense_config(moe: dict[str, Any], width: int) -> dict[str, Any]:
    """The configuration, `model_type` included, of a mixture's dense sibling whose MLPs have `width` neurons.

    Raises ValueError, without the name of a setting, where it has none.
    """
    if reason := why_not_merge(moe):
        raise ValueError(reason)
    dense = {key: moe[key] for key in _KEPT if key in moe}
    heads = int(moe["num_attention_heads"])
    # Said always: the siblings' defaults differ (Qwen3 takes 128, Mistral a sliding window of 4096).
    dense["head_dim"] = moe.get("head_dim") or int(moe["hidden_size"]) // heads
    window = moe.get("sliding_window")
    if moe["model_type"] == "qwen3_moe" and moe.get("use_sliding_window") and window:
        layers = int(moe["num_hidden_layers"])
        dense |= {"use_sliding_window": True, "max_window_layers": 0, "layer_types": ["sliding_attention"] * layers}
    return {
        **dense,
        "model_type": SIBLINGS[moe["model_type"]],
        "intermediate_size": width,
        "sliding_window": window,
    }


def why_not_merge(moe: dict[str, Any]) -> str | None:
    """Why a mixture cannot become its dense sibling, or None if it can."""
    kind = moe.get("model_type")
    if kind not in SIBLINGS:
        return f"{kind} has no dense sibling that we know: {_WITHOUT.get(str(kind), 'it is not among the tested ones')}"
    if missing := [key for key in ("hidden_size", "num_hidden_layers", "num_attention_heads") if key not in moe]:
        return f"its configuration does not say {', '.join(missing)}"
    if moe.get("quantization_config"):
        return "its weights are quantised, and experts are merged from whole ones; take an unquantised copy"
    if moe.get("mlp_only_layers") or (moe.get("decoder_sparse_step") or 1) != 1:
        return "some of its layers have no experts but an MLP of another width, and a dense model has one width"
    return None
