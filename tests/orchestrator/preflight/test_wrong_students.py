"""What a user can get wrong of the models that students start from: told before a model loads."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file
from support.project import Project

Command = Callable[..., Any]
"""The `stillhouse` fixture: words -> Outcome."""


def test_a_student_of_another_tokenizer(project: Project, stillhouse: Command) -> None:
    project.model("student", words=["other", "words"], experts=0)
    project.set("specialists.legal.model", {"base": "student", "config": None})
    error = stillhouse("validate", project.write()).error
    assert error.startswith("error: specialists.legal.model: the tokenizer of ")
    assert "student" in error and "teacher's" in error and "family" in error


def test_a_model_to_measure_of_another_tokenizer_or_with_no_whole_file(project: Project, stillhouse: Command) -> None:
    folder = project.model("other", words=["other", "words"], experts=0)
    project.set("evaluate.models", {"theirs": str(folder)})
    assert stillhouse("validate", project.write()).error.startswith("error: evaluate.models.theirs: the tokenizer of ")
    cut = project.model("cut", experts=0)
    (cut / "model.safetensors").write_bytes(b"\x09\0\0\0\0\0\0\0{}")
    project.set("evaluate.models", {"theirs": "cut"})
    assert "evaluate.models.theirs.model: " in stillhouse("validate", project.write()).error
    project.set("evaluate.models", {"medical": "teacher"})
    assert "'medical' is the name of something else" in stillhouse("validate", project.write()).error


def test_a_student_of_the_same_tokenizer_and_other_special_roles(project: Project, stillhouse: Command) -> None:
    project.model("student", experts=0, vocab_size=64)
    project.json("student/tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "<eos>"})
    project.set("specialists.legal.model", {"base": "student", "config": None})
    assert stillhouse("validate", project.write()).code == 0


def test_a_student_whose_configuration_counts_layers_by_another_name(project: Project, stillhouse: Command) -> None:
    """GPT-2 says n_layer, and models of several parts say it in text_config. Nothing is to be dropped."""
    project.model("student", experts=0)
    project.json("student/config.json", {"model_type": "gpt2", "n_layer": 2, "vocab_size": 12})
    project.set("specialists.legal.model", {"base": "student", "config": None})
    assert stillhouse("validate", project.write()).code == 0


@pytest.mark.parametrize("model_type", ["nonsense", "", None, 3])
def test_a_student_of_no_known_architecture(project: Project, stillhouse: Command, model_type: object) -> None:
    project.set("defaults.model.config.model_type", model_type)
    error = stillhouse("validate", project.write()).error
    assert error.startswith(f"error: specialists.medical.model.config.model_type: {model_type!r}") and "qwen3" in error


def test_a_student_whose_code_comes_with_it(project: Project, stillhouse: Command) -> None:
    """It would fail in its workers, when the teacher is at work already."""
    project.model("student", experts=0)
    code = {"AutoModelForCausalLM": "modeling_own.OwnForCausalLM"}
    project.json("student/config.json", {"model_type": "our_own", "auto_map": code, "vocab_size": 12})
    project.set("specialists.legal.model", {"base": "student", "config": None})
    error = stillhouse("validate", project.write()).error
    assert error.startswith("error: specialists.legal.model.model_type: 'our_own'") and "is not run" in error


@pytest.mark.parametrize("model_type", ["llama", "gemma3_text"])
def test_a_student_of_another_architecture(project: Project, stillhouse: Command, model_type: str) -> None:
    """The second is not the name of a folder of transformers."""
    project.set("defaults.model.config.model_type", model_type)
    assert stillhouse("validate", project.write()).code == 0


def test_a_student_of_experts(project: Project, stillhouse: Command) -> None:
    project.model("student", experts=8)
    project.set("specialists.legal.model", {"base": "student", "config": None})
    error = stillhouse("validate", project.write()).error
    assert error.startswith("error: specialists.legal.model: ") and "8 experts" in error and "dense" in error


def merged(name: str, **more: Any) -> dict[str, Any]:
    return {"merge_experts": name, "config": None, **more}


def test_a_student_made_of_the_teachers_experts(project: Project, stillhouse: Command) -> None:
    project.set("specialists.legal.model", merged("teacher"))
    assert stillhouse("validate", project.write()).code == 0
    out = " ".join(stillhouse("plan", project.write()).out.split())
    assert "initial weights: before training; " in out and "teacher layer by layer (" in out


def test_a_mixture_whose_weights_are_not_read_in_parts(project: Project, stillhouse: Command) -> None:
    project.model("mixture")
    (project.folder / "mixture" / "model.safetensors").unlink(missing_ok=True)
    (project.folder / "mixture" / "pytorch_model.bin").write_bytes(b"weights")
    project.set("specialists.legal.model", merged("mixture"))
    error = stillhouse("validate", project.write()).error
    assert error.startswith("error: specialists.legal.model.merge_experts: ") and "save_pretrained" in error


@pytest.mark.parametrize(
    "changes, word",
    [
        ({"experts": 0}, "dense"),
        ({"model_type": "deepseek_v3"}, "not among the mixtures"),
        ({"quantization_config": {"quant_method": "mxfp4"}}, "quantised"),
    ],
)
def test_a_baseline_that_cannot_be_cut_out_of_the_teacher(
    project: Project, stillhouse: Command, changes: dict[str, Any], word: str
) -> None:
    project.set("evaluate", {"baselines": ["single_expert"]})
    assert stillhouse("validate", project.write()).code == 0
    project.model("other", **changes)
    project.set("teacher", {**project.data["teacher"], "model": "other", "gpus_per_rank": 1})  # for quantised ones
    error = stillhouse("validate", project.write()).error
    assert error.startswith("error: evaluate.baselines: single_expert is cut out of teacher.model"), error
    assert word in error and "take single_expert out" in error


@pytest.mark.parametrize(
    "changes, word",
    [
        ({"model_type": "jetmoe"}, "not among the mixtures that are rounded"),
        ({"quantization_config": {"quant_method": "mxfp4"}}, "quantised already"),
    ],
)
def test_a_teacher_that_cannot_be_rounded_to_4_bit(
    project: Project, stillhouse: Command, changes: dict[str, Any], word: str
) -> None:
    project.set("evaluate", {"baselines": ["teacher_4bit"]})
    assert stillhouse("validate", project.write()).code == 0
    project.model("other", **changes)
    project.set("teacher", {**project.data["teacher"], "model": "other", "gpus_per_rank": 1})
    error = stillhouse("validate", project.write()).error
    assert error.startswith("error: evaluate.baselines: teacher_4bit rounds the weights of teacher.model"), error
    assert word in error and "take teacher_4bit out" in error


@pytest.mark.parametrize(
    "more, words",
    [
        ({"experts": 0}, ["merge_experts", "dense model", "write base"]),
        ({"model_type": "gpt_oss"}, ["merge_experts", "gpt_oss", "sinks", "qwen3_moe", "base"]),
        ({"model_type": "olmoe"}, ["merge_experts", "olmoe", "norms", "mixtral"]),
        ({"quantization_config": {"quant_method": "fp8"}}, ["merge_experts", "quantised", "unquantised copy"]),
        ({"words": ["other", "words"]}, ["tokenizer", "family"]),
    ],
)
def test_experts_that_cannot_be_merged(
    project: Project, stillhouse: Command, more: dict[str, Any], words: list[str]
) -> None:
    project.model("mixture", **more)
    project.set("specialists.legal.model", merged("mixture"))
    error = stillhouse("validate", project.write()).error
    assert error.startswith("error: specialists.legal.model") and all(word in error for word in words), error


def test_more_neurons_than_a_layers_experts_have(project: Project, stillhouse: Command) -> None:
    project.model("mixture", experts=4, moe_intermediate_size=10)
    project.set("specialists.legal.model", merged("mixture", merge="neurons", merged_width=41))
    error = stillhouse("validate", project.write()).error
    assert error.startswith("error: specialists.legal.model.merged_width: 41") and "40 or less" in error


# Adapters -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def adapted(project: Project) -> Any:
    """A base with weights, for adapters on it."""
    folder = project.model("student", experts=0, vocab_size=64)
    names = [f"model.layers.{i}.self_attn.{name}_proj.weight" for i in range(2) for name in "qv"]
    save_file(
        {name: np.zeros((32, 16), np.float32) for name in [*names, "lm_head.weight"]}, folder / "model.safetensors"
    )
    project.set("specialists.legal.model", {"base": "student", "config": None, "lora": {"rank": 4}})
    return project


def test_adapters_are_planned(adapted: Any, stillhouse: Command) -> None:
    out = stillhouse("plan", adapted.write()).out
    assert f"{4 * 4 * 48 / 1e6:.2f} M in adapters" in " ".join(out.split())


@pytest.mark.parametrize("target", ["query", "lm_head"])
def test_adapters_on_layers_that_are_not_there(adapted: Any, stillhouse: Command, target: str) -> None:
    adapted.set("specialists.legal.model.lora.targets", ["q_proj", target])
    error = stillhouse("validate", adapted.write()).error
    assert error.startswith("error: specialists.legal.model.lora.targets: ")
    assert target in error and "'q_proj', 'v_proj'" in error


def test_adapters_without_peft(adapted: Any, stillhouse: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    error = stillhouse("validate", adapted.write()).error
    assert error.startswith("error: specialists.legal.model.lora: ") and "pip install 'stillhouse[lora]'" in error


def test_adapters_on_random_weights(project: Project, stillhouse: Command) -> None:
    project.set("specialists.legal.model.lora", {})
    error = stillhouse("validate", project.write()).error
    assert error.startswith("error: specialists.legal.model: ") and "random weights must all be trained" in error


# What controls learn from -------------------------------------------------------------------------------------


def test_given_answers_want_some_in_each_domain_of_a_specialist(project: Project, stillhouse: Command) -> None:
    """Held-out ones do not count, nor those that the teacher is told to answer itself."""
    project.set("evaluate", {"baselines": ["given_answers"], "heldout": 0.25})
    rows = [{"id": i, "prompt": f"the fever {i}", "answer": "is high"} for i in range(8)]
    project.rows("medical.jsonl", *rows)
    error = stillhouse("validate", project.write()).error
    assert error.startswith("error: evaluate.baselines: given_answers, but no training prompt of 'legal', which ")
    assert "specialists.legal learns from" in error and "take given_answers out" in error
    project.rows("legal.jsonl", *({"prompt": f"rule {i}"} for i in range(8)), {"prompt": "a", "answer": "is high"})
    assert stillhouse("validate", project.write()).code == 0
    project.rows("legal.jsonl", *({"prompt": f"rule {i}"} for i in range(8)), {**rows[0], "split": "heldout"})
    assert "of 'legal'" in stillhouse("validate", project.write()).error
    project.rows("legal.jsonl", *rows)
    assert stillhouse("validate", project.write()).code == 0
    project.set("prompts.legal", {"path": "legal.jsonl", "answers": "sampled"})
    assert "of 'legal'" in stillhouse("validate", project.write()).error


# Weights on a lattice -----------------------------------------------------------------------------------------


NEW = {
    "model_type": "qwen3", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "head_dim": 32,
    "num_attention_heads": 2, "num_key_value_heads": 2,
}  # fmt: skip


@pytest.mark.parametrize(
    ("sizes", "rounding", "told"),
    [
        ({"intermediate_size": 80}, {}, "format: model.layers.0.mlp.down_proj has 80 inputs"),
        ({"head_dim": 24}, {}, "format: model.layers.0.self_attn.o_proj has 48 inputs"),
        ({"hidden_size": 80}, {}, "format: model.layers.0.self_attn.q_proj has 80 inputs"),
        (
            {"hidden_size": 80},
            {"keep": ["q_proj", "k_proj", "v_proj", "up_proj", "gate_proj"], "embeddings": "q8_0"},
            "embeddings: rows have 80",
        ),
        ({}, {"keep": ["down"]}, "keep: ['down'] are no linear layers of the decoder; there are ['down_proj'"),
        ({}, {"keep": ["self_attn.o_proj", "layers.2.mlp.up_proj"]}, "keep: ['layers.2.mlp.up_proj']"),
    ],
)
@pytest.mark.parametrize("setting", ["train.quantise", "quantised"])
def test_weights_that_cannot_be_on_a_lattice(
    project: Project, stillhouse: Command, setting: str, sizes: Any, rounding: Any, told: str
) -> None:
    project.set("specialists.legal.model", {"config": NEW | sizes})
    project.set(f"specialists.legal.{setting}", {"format": "q4_0", **rounding})
    assert stillhouse("validate", project.write()).error.startswith(f"error: specialists.legal.{setting}.{told}")


def test_weights_of_a_base_that_cannot_be_on_a_lattice(project: Project, stillhouse: Command) -> None:
    project.model("narrow", experts=0, intermediate_size=48)
    project.set("specialists.legal.model", {"base": "narrow", "config": None})
    project.set("specialists.legal.quantised", "qad")
    error = stillhouse("validate", project.write()).error
    assert error.startswith("error: specialists.legal.quantised.format: model.layers.0.mlp.down_proj has 48 inputs")


def test_weights_that_can_be_on_a_lattice(project: Project, stillhouse: Command) -> None:
    project.set("specialists.legal.model", {"config": NEW})
    project.set("specialists.legal.quantised", "qad")
    assert stillhouse("validate", project.write()).code == 0
