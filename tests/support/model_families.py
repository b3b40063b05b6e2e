"""Tiny random models of every family of teachers that is tested: their configurations, and models of them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch

WORDS = 300
"""Ids of the tiny models' tokenizer."""

SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": WORDS,
    "eos_token_id": 1,
    "pad_token_id": 0,
    "initializer_range": 0.2,
}
MIXTURES: dict[str, dict[str, Any]] = {
    "qwen3_moe": {
        "moe_intermediate_size": 48, "num_experts": 8, "num_experts_per_tok": 2, "decoder_sparse_step": 1,
        "tie_word_embeddings": True,
    },
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": None},
    "olmoe": {"num_experts": 8, "num_experts_per_tok": 2},
    "gpt_oss": {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 5},
    # A dense first layer, a shared expert, groups of experts, and attention by latents.
    "deepseek_v3": {
        "n_routed_experts": 8, "num_experts_per_tok": 2, "n_group": 2, "topk_group": 1, "first_k_dense_replace": 1,
        "moe_intermediate_size": 48, "n_shared_experts": 1, "q_lora_rank": 16, "kv_lora_rank": 16,
        "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 16, "num_key_value_heads": 4, "head_dim": 8,
    },
    "granitemoe": {
        "num_local_experts": 4, "num_experts_per_tok": 2, "logits_scaling": 2.0, "attention_multiplier": 0.25,
    },
    # A dense first layer, a shared expert and norms of queries and keys.
    "glm4_moe": {
        "n_routed_experts": 4, "num_experts_per_tok": 2, "first_k_dense_replace": 1, "moe_intermediate_size": 48,
        "n_shared_experts": 1, "use_qk_norm": True, "num_nextn_predict_layers": 0,
    },
    "minimax_m2": {"num_local_experts": 4, "num_experts_per_tok": 2, "rotary_dim": 8},
    "ernie4_5_moe": {
        "moe_num_experts": 4, "moe_k": 2, "moe_num_shared_experts": 1, "moe_intermediate_size": 48,
        "moe_layer_start_index": 1,
    },
    "hunyuan_v1_moe": {"num_experts": 4, "moe_topk": 2},
    "dots1": {
        "n_routed_experts": 4, "num_experts_per_tok": 2, "first_k_dense_replace": 1, "moe_intermediate_size": 48,
        "n_shared_experts": 1, "sliding_window": 5, "max_window_layers": 1,
    },
    "qwen2_moe": {
        "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 48, "shared_expert_intermediate_size": 48,
    },
}  # fmt: skip
"""Mixtures of experts of which a teacher is tested."""

DENSE: dict[str, dict[str, Any]] = {
    "qwen3": {},
    "llama": {},
    "gemma3_text": {"sliding_window": 5, "sliding_window_pattern": 2, "query_pre_attn_scalar": 16},
    # Scores are scaled as in the others; by its default of 1, attention is so sharp that rounding alone moves it.
    "granite": {"logits_scaling": 2.0, "attention_multiplier": 0.25},
}
"""Dense models of which a teacher is tested."""

_DELTA: dict[str, Any] = {
    "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 48, "shared_expert_intermediate_size": 48,
    "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 16, "linear_value_head_dim": 16,
    "layer_types": ["linear_attention", "full_attention"],
}  # fmt: skip
HYBRIDS: dict[str, dict[str, Any]] = {
    "qwen3_next": _DELTA,
    "qwen3_5_moe_text": _DELTA,
    "granitemoehybrid": {
        "num_local_experts": 4, "num_experts_per_tok": 2, "shared_intermediate_size": 48, "logits_scaling": 2.0,
        "attention_multiplier": 0.25, "mamba_n_heads": 4, "mamba_d_head": 32, "mamba_d_state": 16,
        "layer_types": ["mamba", "attention"],
    },
    # Of a layer's two halves each is a layer here.
    "nemotron_h": {
        "n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 48,
        "moe_shared_expert_intermediate_size": 48, "mamba_num_heads": 4, "mamba_head_dim": 16, "n_groups": 2,
        "ssm_state_size": 16, "layers_block_type": ["linear_attention", "moe", "full_attention", "moe"],
    },
    "lfm2_moe": {
        "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 48, "num_dense_layers": 1,
        "layer_types": ["conv", "full_attention"],
    },
    "kimi_linear": {
        "num_experts": 4, "num_experts_per_token": 2, "moe_intermediate_size": 48, "linear_head_dim": 16,
        "linear_num_heads": 4, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 16,
        "num_key_value_heads": 4, "layer_types": ["linear_attention", "full_attention"],
    },
}  # fmt: skip
# The engine pads with id 0, whose embedding would be zero as that of `pad_token_id`: nothing that could reach a state.
HYBRIDS = {name: {**sizes, "pad_token_id": 2} for name, sizes in HYBRIDS.items()}
"""Mixtures of experts some of whose layers keep a state of a text: linear attention, Mamba, short convolutions."""

FAMILIES = MIXTURES | HYBRIDS | DENSE

_LONG = {"minimax_m2", "ernie4_5_moe", "hunyuan_v1_moe", "dots1", "qwen2_moe", *HYBRIDS} - {"qwen3_next"}
"""Families that go through what others of the short tests go through, too."""


def is_long(family: str) -> bool:
    """Whether a family is tested in `make test-long` only."""
    return family in _LONG


def as_parameters(families: Iterable[str]) -> list[Any]:
    """Families as parameters of a test."""
    return [pytest.param(name, marks=[pytest.mark.long] if is_long(name) else []) for name in families]


def random_model(model_type: str, seed: int = 0, **sizes: Any) -> Any:
    """A random model of a type, wide enough in its weights that its distributions differ."""
    from transformers import AutoConfig, AutoModelForCausalLM

    own = SIZES | FAMILIES.get(model_type, {})
    torch.manual_seed(seed)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **(own | sizes))).eval()


def save_random_model(folder: Path, model_type: str, **sizes: Any) -> Path:
    """The folder, with such a model and its tokenizer in it."""
    word_tokenizer().save_pretrained(folder)
    random_model(model_type, **sizes).save_pretrained(folder)
    return folder


def word_tokenizer() -> Any:
    """`w3 w4 ...`: one word, one id; 0 pads, 1 ends a text."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["<pad>", "<eos>", "<unk>", *(f"w{i}" for i in range(3, WORDS))]
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>")
