"""Quantised weights are run as they are, or refused where a rank loads them: before they are read, and after."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from workers.teacher.config import TeacherConfig
from workers.teacher.engines.loading import load_teacher
from workers.teacher.engines.quantised import check_still_quantised


@pytest.fixture
def quantised(save_model: Callable[..., Path]) -> Callable[[str], Path]:
    """A folder whose config.json says that its weights are quantised in some way."""

    def make(method: str) -> Path:
        folder = save_model("qwen3_moe")
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": method}}))
        return folder

    return make


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU may run them")
@pytest.mark.parametrize("method", ["fp8", "mxfp4", "compressed-tensors"])
def test_what_would_be_dequantised_is_not_read(method: str, quantised: Callable[[str], Path]) -> None:
    folder = quantised(method)
    (folder / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=rf"teacher\.model: .*quantised \({method}\).*set teacher.engine to vllm"):
        load_teacher(TeacherConfig(model=str(folder)))


def test_a_model_that_lost_its_quantisation_is_refused(quantised: Callable[[str], Path], tiny_model: Any) -> None:
    with pytest.raises(ValueError, match=r"teacher\.model: .*quantised \(fp8\)"):
        check_still_quantised(TeacherConfig(model="m"), quantised("fp8"), tiny_model("qwen3_moe"))


def test_whole_weights_are_read(save_model: Callable[..., Path]) -> None:
    assert load_teacher(TeacherConfig(model=str(save_model("qwen3_moe")))).config.model_type == "qwen3_moe"


def test_who_has_the_other_engine_is_not_told_to_take_it(quantised: Callable[[str], Path]) -> None:
    """`targets show --exact` asks the transformers model of any teacher."""
    with pytest.raises(ValueError, match="first forward pass, to several times the memory; take an unquantised copy"):
        load_teacher(TeacherConfig(model=str(quantised("compressed-tensors")), engine="vllm"))
