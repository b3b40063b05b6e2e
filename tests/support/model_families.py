"""Tiny random models of every family of teachers that is tested: their configurations."""

from __future__ import annotations

from typing import Any

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
