"""What is refused of a family, before anything is loaded; every family that is tested is let through."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.model_families import DENSE, FAMILIES

from workers.model_files import active_experts
from workers.model_sizes import model_size
from workers.teacher.engines.families import check_teacher_family, why_not_generate


def check(config: dict[str, Any], **settings: Any) -> None:
    check_teacher_family("teacher", "m", config, **{"ep_size": 2, "gpus": 0, **settings})


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_tested_is_let_through(family: str, save_model: Callable[..., Path], tiny_model: Any) -> None:
    """With its experts counted as they are in memory, from a checkpoint of the names it is saved with."""
    folder = save_model(family)
    config = json.loads((folder / "config.json").read_text())
    check(config, ep_size=1 if family in DENSE else 2)
    assert why_not_generate(config) is None
    assert family in DENSE or active_experts(config) == 2
    size = model_size(folder)
    assert size is not None
    experts = sum(p.numel() for n, p in tiny_model(family).named_parameters() if ".experts." in n)
    assert size.experts == experts and (experts > 0) == (family not in DENSE)


@pytest.mark.parametrize(
    "config, settings, said",
    [
        ({"model_type": "llama"}, {}, "'m' is a dense model (llama)"),
        ({"model_type": "mixtral", "num_local_experts": 8}, {"ep_size": 3}, "3 does not divide the 8 experts"),
        (
            {"model_type": "switch_transformers", "num_experts": 8},
            {},
            "no expert-parallel plan for switch_transformers",
        ),
        (
            {"model_type": "gpt_oss", "num_local_experts": 8, "quantization_config": {"quant_method": "mxfp4"}},
            {},
            "quantised (mxfp4), which runs on GPUs only",
        ),
        (
            {"model_type": "gpt_oss", "num_local_experts": 8, "quantization_config": {"quant_method": "mxfp4"}},
            {"gpus": 1},
            "quantised experts are not split over ranks",
        ),
        (
            {"model_type": "qwen3_moe", "quantization_config": {"quant_method": "compressed-tensors"}},
            {"gpus": 1, "ep_size": 1},
            "decompresses these in the first forward pass, to several times the memory; set teacher.engine to vllm",
        ),
        (
            {"model_type": "deepseek_v3", "quantization_config": {"quant_method": "fp8", "dequantize": True}},
            {"gpus": 1, "ep_size": 1},
            "has transformers dequantise them",
        ),
        (
            {"model_type": "qwen3_5_moe", "text_config": {"quantization_config": {"quant_method": "modelopt"}}},
            {"gpus": 1, "ep_size": 1},
            "quantised (modelopt), and the installed transformers does not know that kind",
        ),
    ],
)
def test_what_cannot_be_done_is_refused(config: dict[str, Any], settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError) as error:
        check(config, **settings)
    assert said in str(error.value) and str(error.value).startswith("teacher.")


@pytest.mark.parametrize("method", ["mxfp4", "fp8", "bitsandbytes"])
def test_a_quantised_model_on_one_gpu_is_let_through(method: str) -> None:
    check({"model_type": "gpt_oss", "quantization_config": {"quant_method": method}}, ep_size=1, gpus=1)


@pytest.mark.parametrize(
    "config, said",
    [
        ({"model_type": "deepseek_v4", "layer_types": ["compressed_sparse_attention"]}, "layers of compressed_sparse"),
        ({"model_type": "falcon_h1", "text_config": {"layer_types": ["hybrid"]}}, "layers of hybrid"),
        ({"model_type": "minimax", "layer_types": ["linear_attention", "full_attention"]}, "a cache of its own"),
        (
            {"model_type": "nemotron_h", "layers_block_type": ["mamba", "moe"], "time_step_limit": [0.001, "Infinity"]},
            "limits step sizes (time_step_limit: 0.001 to Infinity)",
        ),
    ],
)
def test_layers_whose_answers_would_not_be_right_are_named(config: dict[str, Any], said: str) -> None:
    assert said in str(why_not_generate(config))
