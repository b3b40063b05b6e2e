"""A student is tried before its teacher is paid: what its first step would find is found, and nothing that is right is
refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from workers.student.config import SpecialistConfig
from workers.student.trial.building import made_small, on_meta, parameters
from workers.student.trial.trying import Tried, try_student, try_students

VOCABULARY = 60
SIZES: dict[str, Any] = {
    "model_type": "qwen3", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "head_dim": 16,
    "num_attention_heads": 2, "num_key_value_heads": 1,
}  # fmt: skip


def tried(model: dict[str, Any], scheme: str = "systematic", **settings: Any) -> Tried:
    specialist = SpecialistConfig.model_validate({"model": model, **settings})
    return try_student("specialists.legal", specialist, scheme, VOCABULARY)


def fault(model: dict[str, Any], **settings: Any) -> str:
    with pytest.raises(ValueError) as caught:
        tried(model, **settings)
    message = str(caught.value)
    assert message.startswith("specialists.legal") and "\n" not in message
    return message


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A model folder with weights."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(**SIZES, vocab_size=VOCABULARY, tie_word_embeddings=True)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "base")
    return tmp_path / "base"


@pytest.mark.parametrize(
    ("scheme", "loss"),
    [
        ("systematic", {}),
        ("threshold", {"preset": "sft"}),
        ("topk", {"divergence": "jsd", "kl": 1.0, "ce": 0.5}),
        ("topk", {"weighting": "confidence", "ce": 1.0}),
        ("full", {"divergence": "reverse_kl"}),
        ("hidden", {}),
        ("hidden", {"divergence": "jsd", "weighting": "confidence", "ce": 1.0}),
        ("systematic", {"kl": 0.0, "ce": 1.0}),
        ("systematic", {"kl": 0.0, "kl_end": 1.0, "ce": 1.0}),
    ],
)
def test_a_step_of_every_kind_of_target(scheme: str, loss: dict[str, Any]) -> None:
    assert tried({"config": SIZES}, scheme, loss=loss).stepped


@pytest.mark.parametrize("model_type", ["llama", "gemma3_text", "granite", "gpt2", "phi3", "olmo2", "smollm3"])
def test_architectures_that_can_be_students(model_type: str) -> None:
    small = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    special = {"pad_token_id": None, "bos_token_id": 0, "eos_token_id": 1}
    found = tried({"config": {"model_type": model_type, "num_key_value_heads": 4, **small, **special}})
    assert found.stepped and found.positions is not None
    assert found.positions.learned == (model_type == "gpt2")


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"num_key_value_heads": 3}, "first step would fail"),
        ({"hidden_act": "sillu"}, "'sillu'"),
        ({"head_dim": 7}, "even"),
        ({"rope_parameters": {"rope_type": "zip", "rope_theta": 1e4}}, "zip"),
        ({"vocab_size": 20}, "tokenizer's 60 ids"),
        ({"attention_dropout": 2.0}, "dropout probability"),
        ({"initializer_range": float("nan")}, "nan"),
        ({"model_type": "t5"}, "AutoModelForCausalLM"),
        ({"model_type": "bert"}, "tokens that come later"),
        ({"model_type": "qwen3_moe", "num_experts": 4}, "mixture of 4 experts"),
    ],
)
def test_sizes_of_which_no_student_comes(changed: dict[str, Any], words: str) -> None:
    message = fault({"config": SIZES | changed})
    assert words in message and "specialists.legal.model.config" in message


def test_a_model_too_large_to_be_tried_whole_is_tried_small() -> None:
    """At its full width, with each kind of layer: what is wrong in one of them is found."""
    large = {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 12, "num_attention_heads": 8}
    kinds = ["sliding_attention"] * 5 + ["full_attention"]
    gemma = {"model_type": "gemma3_text", **large, "num_key_value_heads": 4, "layer_types": kinds * 2}
    config = AutoConfig.for_model(**gemma)
    assert made_small(config).layer_types == kinds and config.num_hidden_layers == 12
    assert parameters(on_meta(made_small(config))) < parameters(on_meta(config)) / 2
    assert tried({"config": gemma}).stepped
    assert "first step would fail" in fault({"config": gemma | {"num_key_value_heads": 3}})


def test_a_model_of_which_one_layer_fills_a_machine_is_built_only() -> None:
    huge = {"hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80, "num_attention_heads": 64}
    found = tried({"config": {"model_type": "llama", **huge, "num_key_value_heads": 8}})
    assert not found.stepped and found.parameters > 60e9


def test_a_base_with_adapters_and_fewer_layers(base: Path) -> None:
    model = {"base": str(base), "drop_layers": 1, "lora": {"rank": 2, "targets": ["q_proj"]}}
    assert tried(model).parameters < tried({"base": str(base)}).parameters
    message = fault({"base": str(base), "lora": {"targets": ["no_proj"]}})
    assert "model.lora.targets: ['no_proj']" in message and "q_proj" in message


def test_a_base_whose_files_are_of_another_size_than_its_configuration(base: Path) -> None:
    text = (base / "config.json").read_text()
    (base / "config.json").write_text(text.replace('"intermediate_size": 48', '"intermediate_size": 40'))
    assert "mlp.down_proj.weight is [32, 48] in the files" in fault({"base": str(base)})


def test_a_base_whose_files_lack_weights(base: Path) -> None:
    """transformers would make up what is missing, and only log it."""
    weights = load_file(base / "model.safetensors")
    name = "model.layers.1.mlp.up_proj.weight"
    save_file({n: w for n, w in weights.items() if n != name}, base / "model.safetensors", {"format": "pt"})
    message = fault({"base": str(base)})
    assert "lack 1 of the model's weights" in message and name in message


def test_specialists_that_are_alike_are_tried_once_and_each_is_known() -> None:
    one = SpecialistConfig.model_validate({"model": {"config": SIZES}})
    other = SpecialistConfig.model_validate({"model": {"config": SIZES | {"num_hidden_layers": 1}}})
    found = try_students({"a": one, "b": one, "c": other}, "systematic", VOCABULARY)
    assert found["a"] is found["b"] and found["c"].parameters < found["a"].parameters


def test_trying_changes_no_random_number_of_the_process() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    tried({"config": SIZES})
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("setting", ["train.quantise", "quantised"])
def test_weights_that_cannot_be_on_a_lattice(setting: str) -> None:
    """48 neurons, which groups of 32 do not divide."""

    def settings(**quantise: Any) -> dict[str, Any]:
        own = {"format": "q4_0", **quantise}
        return {"quantised": own} if setting == "quantised" else {"train": {"quantise": own}}

    message = fault({"config": SIZES}, **settings())
    assert message.startswith(f"specialists.legal.{setting}.format: model.layers.0.mlp.down_proj has 48 inputs")
    assert tried({"config": SIZES}, **settings(keep=["down_proj"], embeddings="q8_0")).stepped
    assert f"{setting}.keep: ['no_proj']" in fault({"config": SIZES}, **settings(keep=["no_proj"]))
