"""Rounded weights and their masters in one process: what is computed with, what is moved, and what comes back. With
DeepSpeed's stages it is tested where students train (tests/workers/student/training/test_quantised.py)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from workers.quantise.config import RoundingConfig
from workers.quantise.lattice import on_lattice
from workers.quantise.layers import quantised_weights
from workers.quantise.masters import Masters

IDS = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6]])


class Alone:
    """An engine that partitions nothing."""

    @staticmethod
    def zero_optimization_stage() -> int:
        return 0


@pytest.fixture
def model() -> Any:
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = AutoConfig.for_model("llama", **sizes, num_key_value_heads=2, vocab_size=50, tie_word_embeddings=True)
    return AutoModelForCausalLM.from_config(config).train()


@pytest.fixture
def weights(model: Any) -> dict[str, Any]:
    return dict(quantised_weights(model, RoundingConfig(format="q4_0", embeddings="q8_0")).weights)


def loss(model: Any) -> torch.Tensor:
    found: torch.Tensor = model(input_ids=IDS, labels=IDS, use_cache=False).loss
    return found


def test_what_is_saved_computes_what_was_computed_with(model: Any, weights: dict[str, Any], tmp_path: Path) -> None:
    Masters(Alone(), model, weights).lower()
    model.save_pretrained(tmp_path)
    saved = AutoModelForCausalLM.from_pretrained(tmp_path).train()
    logits, again = (m(input_ids=IDS, use_cache=False).logits for m in (model, saved))
    assert torch.equal(logits, again)


def test_gradients_of_rounded_weights_move_their_masters(model: Any, weights: dict[str, Any]) -> None:
    """As if the rounding were not there: an optimiser's step of 1 takes off just the gradient at the rounded ones."""
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    masters = Masters(Alone(), model, weights)
    masters.lower()
    loss(model).backward()
    gradients = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    for name, parameter in model.named_parameters():
        expected = on_lattice(before[name], weights[name]) if name in weights else before[name]
        assert torch.equal(parameter, expected), name
    masters.lift()
    torch.optim.SGD(model.parameters(), lr=1.0).step()
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name] - gradients[name]), name
    masters.lower()
    for name, parameter in model.named_parameters():
        moved = before[name] - gradients[name]
        assert torch.equal(parameter, on_lattice(moved, weights[name]) if name in weights else moved), name


def test_masters_come_back_for_a_block_and_weights_after_it(model: Any, weights: dict[str, Any]) -> None:
    masters, before = Masters(Alone(), model, weights), model.lm_head.weight.detach().clone()
    with masters.lifted():
        assert torch.equal(model.lm_head.weight, before), "they were never away"
    masters.lower()
    rounded = model.lm_head.weight.detach().clone()
    masters.lower()
    assert not torch.equal(rounded, before) and model.lm_head.weight is model.model.embed_tokens.weight
    with masters.lifted():
        assert torch.equal(model.lm_head.weight, before) and not masters.lowered
    assert torch.equal(model.lm_head.weight, rounded) and masters.lowered
