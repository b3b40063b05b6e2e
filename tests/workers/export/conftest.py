"""Tiny random models of the families that are exported, and tokenizers of the kinds that they have."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

WORDS = 320

SIZES: dict[str, Any] = {
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "vocab_size": WORDS, "eos_token_id": 1, "pad_token_id": 0,
    "initializer_range": 0.2, "max_position_embeddings": 512,
}  # fmt: skip
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}  # fmt: skip
EXPORTED: dict[str, dict[str, Any]] = {
    "llama": {"model_type": "llama"},
    "llama, tied, wide heads": {"model_type": "llama", "tie_word_embeddings": True, "head_dim": 32},
    "llama, biases": {"model_type": "llama", "attention_bias": True, "mlp_bias": True},
    "llama 3": {"model_type": "llama", "rope_parameters": LLAMA3},
    "llama, stretched": {
        "model_type": "llama", "rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0},
    },
    "mistral": {"model_type": "mistral", "sliding_window": None},
    "qwen2": {"model_type": "qwen2", "tie_word_embeddings": True},
    "qwen3": {"model_type": "qwen3", "head_dim": 32, "rope_parameters": {"rope_type": "default", "rope_theta": 1e6}},
    # The sixth of seven layers sees everything.
    "gemma3": {
        "model_type": "gemma3_text", "num_hidden_layers": 7, "sliding_window": 8, "query_pre_attn_scalar": 16,
        "tie_word_embeddings": True, "initializer_range": 0.1,
    },
    # Scores are scaled as in the others; by its default of 1, attention is so sharp that rounding alone moves it.
    "granite": {
        "model_type": "granite", "logits_scaling": 2.0, "attention_multiplier": 0.25, "embedding_multiplier": 3.0,
        "residual_multiplier": 0.5,
    },
}  # fmt: skip
"""Small configurations of all families that are written, with what each family is told besides."""


@pytest.fixture(scope="session")
def exported_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a tiny random model by its name in EXPORTED; norms and biases are random too."""
    made: dict[str, Path] = {}

    def folder_of(name: str) -> Path:
        from transformers import AutoConfig, AutoModelForCausalLM

        if name not in made:
            torch.manual_seed(0)
            settings = SIZES | EXPORTED[name]
            model = AutoModelForCausalLM.from_config(AutoConfig.for_model(settings.pop("model_type"), **settings))
            with torch.no_grad():
                for parameter in (p for p in model.parameters() if p.dim() == 1):
                    parameter.add_(torch.randn_like(parameter) * 0.1)
            made[name] = tmp_path_factory.mktemp("model")
            model.save_pretrained(made[name])
        return made[name]

    return folder_of
