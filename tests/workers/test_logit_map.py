"""Whose logits are a matrix and what the map of logits knows, read from source files and tried on models."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from support.model_families import FAMILIES, as_parameters

from workers.logit_map import head_is_known
from workers.two_part_model import TwoPartModel

KNOWN = {
    "qwen3_moe": "Qwen3MoeForCausalLM",
    "mixtral": "MixtralForCausalLM",
    "olmoe": "OlmoeForCausalLM",
    "gpt_oss": "GptOssForCausalLM",
    "deepseek_v3": "DeepseekV3ForCausalLM",
    "granitemoe": "GraniteMoeForCausalLM",
    "llama": "LlamaForCausalLM",
    "gemma3_text": "Gemma3ForCausalLM",
    "gemma3": "Gemma3ForConditionalGeneration",
    "cohere2": "Cohere2ForCausalLM",
    "nemotron_h": "NemotronHForCausalLM",
}
OTHERS = {
    "falcon_h1": "FalconH1ForCausalLM",  # multiplies by a number of its own
    "recurrent_gemma": "RecurrentGemmaForCausalLM",  # caps by another setting
    "minicpm3": "MiniCPM3ForCausalLM",  # divides the hidden states
    "modernbert-decoder": "ModernBertDecoderForCausalLM",  # a head of several layers
    "roberta": "RobertaForCausalLM",  # likewise, by the usual name
    "qwen3": "TheirOwnForCausalLM",
    "unheard_of": "Qwen3ForCausalLM",
    "": "Qwen3ForCausalLM",
}


@pytest.mark.parametrize("kind", KNOWN)
def test_heads_that_are_a_matrix_and_a_known_map(kind: str) -> None:
    assert head_is_known({"model_type": kind, "architectures": [KNOWN[kind]]})


@pytest.mark.parametrize("kind", OTHERS)
def test_heads_that_are_more_or_not_known(kind: str) -> None:
    assert not head_is_known({"model_type": kind, "architectures": [OTHERS[kind]]})


def test_a_model_without_a_class_is_not_known() -> None:
    assert not head_is_known({"model_type": "qwen3"}) and not head_is_known({"architectures": ["Qwen3ForCausalLM"]})


@pytest.mark.parametrize("kind", as_parameters(FAMILIES))
def test_what_source_files_say_holds_of_numbers(kind: str, tiny_model: Callable[..., Any]) -> None:
    model = tiny_model(kind)
    assert head_is_known({"model_type": kind, "architectures": [type(model).__name__]})
    with torch.no_grad():
        assert TwoPartModel(model, "cpu").head_is_plain()
