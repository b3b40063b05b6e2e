"""Sizes of models by hand, and speeds that are numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from workers.evaluation.speed import Speed, measure
from workers.two_part_model import TwoPartModel

PROMPTS = [np.arange(3, 3 + n) for n in (9, 6, 12)]


def speed_of(model: Any) -> Speed:
    return measure(TwoPartModel(model.eval(), "cpu"), PROMPTS, 4)


@pytest.mark.parametrize("tied", [True, False])
def test_a_dense_model_meets_all_its_weights_but_looks_up_its_embeddings(
    tiny_model: Callable[..., Any], tied: bool
) -> None:
    model = tiny_model("llama", seed=0, vocab_size=50, tie_word_embeddings=tied)
    found, count = speed_of(model), sum(p.numel() for p in model.parameters())
    assert found.parameters == found.active_parameters == count and found.weight_bytes == 4 * count
    embeddings = 50 * model.config.hidden_size
    assert found.flops_per_token == 2 * (count if tied else count - embeddings)
    assert (found.prompt_tokens, found.batch, found.new_tokens) == (6, 3, 4)
    assert found.first_token_ms > 0 and found.tokens_per_s > 0 and found.device.startswith("cpu")
    assert Speed.from_bytes(found.to_bytes()) == found


def test_a_mixture_meets_the_experts_that_a_token_is_sent_to(tiny_model: Callable[..., Any]) -> None:
    model = tiny_model("qwen3_moe", seed=0, vocab_size=50)
    experts = sum(p.numel() for n, p in model.named_parameters() if ".experts." in n)
    used, count = model.config.num_experts_per_tok, model.config.num_experts
    assert 0 < used < count and experts
    found = speed_of(model.to(torch.bfloat16))
    assert found.active_parameters == found.parameters - experts + experts * used // count
    assert found.weight_bytes == 2 * found.parameters
