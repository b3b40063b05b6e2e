"""The models that are measured: random, of shapes that a laptop can run, with a tokenizer of as many words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM, Qwen3MoeConfig, Qwen3MoeForCausalLM

VOCABULARY = 32_768
LARGE_VOCABULARY = 151_936


def make_moe(folder: Path) -> Path:
    """8 layers of 16 experts, 4 for each token: 142 M parameters, 7 tenths of them experts'."""
    torch.manual_seed(0)
    config = Qwen3MoeConfig(
        vocab_size=VOCABULARY, hidden_size=512, intermediate_size=1024, moe_intermediate_size=512, num_hidden_layers=8,
        num_attention_heads=8, num_key_value_heads=4, head_dim=64, num_experts=16, num_experts_per_tok=4,
        mlp_only_layers=[], decoder_sparse_step=1, norm_topk_prob=True, eos_token_id=1, pad_token_id=0,
        tie_word_embeddings=False,
    )  # fmt: skip
    return save(Qwen3MoeForCausalLM(config), VOCABULARY, folder)


def make_large_vocabulary(folder: Path) -> Path:
    """A small dense model of 151,936 ids."""
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=LARGE_VOCABULARY, hidden_size=256, intermediate_size=1024, num_hidden_layers=4, head_dim=64,
        num_attention_heads=4, num_key_value_heads=4, tie_word_embeddings=True, eos_token_id=1, pad_token_id=0,
    )  # fmt: skip
    return save(Qwen3ForCausalLM(config), LARGE_VOCABULARY, folder)


def random_ids(lengths: list[int], vocabulary: int, seed: int = 0) -> list[list[int]]:
    """Texts of so many tokens."""
    rng = np.random.default_rng(seed)
    return [rng.integers(3, vocabulary, n).tolist() for n in lengths]


def save(model: Any, vocabulary: int, folder: Path) -> Path:
    """A model with a tokenizer of so many words; its folder."""
    words = {w: i for i, w in enumerate(["<pad>", "<eos>", "<unk>", *(f"w{i}" for i in range(3, vocabulary))])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>"
    ).save_pretrained(folder)
    model.save_pretrained(folder)
    return folder
