"""What is written of exports in a configuration, and what is left to the model."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from workers.export.config import ExportConfig
from workers.quantise.config import QuantisedWeights


def made(value: Any) -> ExportConfig:
    return ExportConfig.model_validate(value)


def test_a_name_is_the_short_form_and_what_is_dumped_comes_back() -> None:
    assert made("gguf") == made({"format": "gguf"})
    for value in ("safetensors", {"format": "gguf", "weights": "q8_0", "keep": ["down_proj"]}, "compressed-tensors"):
        assert made(made(value).model_dump(mode="json")) == made(value)


@pytest.mark.parametrize(
    ("value", "label", "types"),
    [
        ("safetensors", "", None),
        ({"format": "safetensors", "dtype": "bfloat16"}, "bfloat16", None),
        ("compressed-tensors", "w4a16", None),
        ("gguf", "gguf", ("q4_0", "q8_0")),
        ({"format": "gguf", "weights": "q8_0"}, "gguf-q8_0", ("q8_0", "q8_0")),
        ({"format": "gguf", "weights": "f16"}, "gguf-f16", ("f16", "f16")),
        ({"format": "gguf", "weights": "q4_0", "embeddings": "f16"}, "gguf-q4_0", ("q4_0", "f16")),
    ],
)
def test_names_and_types(value: Any, label: str, types: tuple[str, str] | None) -> None:
    export = made(value)
    assert export.label == label and export.copied == (value == "safetensors")
    assert types is None or (export.linear_type, export.embedding_type) == types


def test_what_a_model_was_trained_on_fills_what_is_left_open() -> None:
    trained = QuantisedWeights("q8_0", None, ("down_proj",), {})
    found = made("gguf").of_model(trained)
    assert (found.linear_type, found.embedding_type, found.keep) == ("q8_0", "f16", ("down_proj",))
    assert made("gguf").of_model(QuantisedWeights("q4_0", "q8_0", (), {})).embedding_type == "q8_0"
    said = made({"format": "gguf", "weights": "q4_0", "keep": ["o_proj"]}).of_model(trained)
    assert (said.linear_type, said.embedding_type, said.keep) == ("q4_0", "q8_0", ("o_proj", "down_proj"))
    assert made("compressed-tensors").of_model(trained).keep == ("down_proj",)
    assert made("safetensors").of_model(trained) == made("gguf").model_copy(update={"format": "safetensors"})
    assert made("gguf").of_model(None) == made("gguf")


def test_layers_are_kept_by_the_last_parts_of_their_names() -> None:
    export = made({"format": "gguf", "keep": ["down_proj", "layers.0.self_attn.q_proj"]})
    kept = ("model.layers.3.mlp.down_proj.weight", "model.layers.0.self_attn.q_proj.weight")
    assert all(export.keeps(name) for name in kept)
    assert not export.keeps("model.layers.10.self_attn.q_proj.weight") and not export.keeps("model.down_proj_2.weight")


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("onnx", "onnx is not written"),
        ("mlx", "mlx is not written"),
        ("exl2", "Input should be"),
        ({"format": "gguf", "dtype": "float16"}, "dtype is a setting of safetensors and compressed-tensors"),
        ({"format": "safetensors", "weights": "q4_0"}, "weights is a setting of gguf"),
        ({"format": "safetensors", "keep": ["o_proj"]}, "keep is a setting of gguf and compressed-tensors"),
        ({"format": "gguf", "measure": -1}, "greater than or equal to 0"),
        ({"format": "gguf", "wieghts": "q4_0"}, "Extra inputs"),
    ],
)
def test_wrong_settings(value: Any, said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        made(value)
