"""`validate --deep`: what only building the models tells; and texts that a student has no positions for."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from support.captured_run import give_weights
from support.project import Project

from orchestrator.prompts.freezing.freeze import freeze
from workers.layout import PROMPTS_SUMMARY

Command = Callable[..., Any]
"""The `stillhouse` fixture: words -> Outcome."""


def test_every_model_is_built_and_every_student_stepped(project: Project, stillhouse: Command) -> None:
    shown = stillhouse("validate", "--deep", project.write())
    assert shown.code == 0 and shown.err == ""
    assert "teacher teacher: " in shown.out and "specialist medical: " in shown.out
    assert shown.out.count("one micro-batch went through it") == 2
    assert len(json.loads(stillhouse("validate", "--deep", "--json", project.write()).out)["models"]) == 3


def test_a_student_that_sees_later_tokens(project: Project, stillhouse: Command) -> None:
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    project.data["defaults"].pop("model")
    project.set("specialists.medical.model", {"config": {"model_type": "bert", "is_decoder": True, **sizes}})
    project.set("specialists.legal.model", {"config": {"model_type": "bert", **sizes}})
    assert stillhouse("validate", project.write()).code == 0
    error = stillhouse("validate", "--deep", project.write()).error
    assert error.startswith("error: specialists.legal.model.config: bert sees tokens that come later")


def test_a_teacher_whose_files_are_another_models(project: Project, stillhouse: Command) -> None:
    folder = project.model("dense", experts=0, head_dim=16, num_key_value_heads=2)
    give_weights(folder)
    project.json("dense/config.json", json.loads((folder / "config.json").read_text()) | {"intermediate_size": 96})
    project.set("teacher.model", "dense")
    error = stillhouse("validate", "--deep", project.write()).error
    assert error.startswith("error: teacher.model: model.layers.0.mlp.down_proj.weight is ")


@pytest.mark.parametrize("setting", ["answers.filter", "evaluate.truth"])
def test_a_function_whose_file_fails(project: Project, stillhouse: Command, setting: str) -> None:
    """The truth is asked for at the very end of a run."""
    project.text("own.py", "import no_such_module\n\n\ndef judge(*_):\n    return True\n")
    project.set(setting, "own.py:judge")
    assert stillhouse("validate", project.write()).code == 0
    error = stillhouse("validate", "--deep", project.write()).error
    assert error.startswith(f"error: {setting}: ") and "No module named 'no_such_module'" in error


# Texts that a student has no positions for ---------------------------------------------------------------------


def test_texts_longer_than_a_student_holds(project: Project, stillhouse: Command) -> None:
    """Prompts of four tokens and answers of at most eight."""
    project.set("defaults.model.config.max_position_embeddings", 11)
    error = stillhouse("validate", project.write()).error
    assert error.startswith("error: specialists.medical.model.config.max_position_embeddings: 11, but its texts may ")
    assert "12 tokens" in error and "texts.max_tokens: 11" in error
    project.set("defaults.model.config.max_position_embeddings", 12)
    assert stillhouse("validate", project.write()).code == 0


def test_texts_that_are_cut_need_no_more_positions_than_their_pieces(project: Project, stillhouse: Command) -> None:
    project.set("defaults.model.config.max_position_embeddings", 6)
    project.set("defaults.texts", {"max_tokens": 6})
    assert stillhouse("validate", project.write()).code == 0
    assert stillhouse("validate", "--deep", project.write()).code == 0


def test_learned_positions_must_hold_whole_texts_since_they_are_measured(project: Project, stillhouse: Command) -> None:
    sizes = {"model_type": "gpt2", "n_positions": 6, "n_embd": 16, "n_layer": 1, "n_head": 2}
    special = {"bos_token_id": 0, "eos_token_id": 1}
    project.data["defaults"]["model"] = {"config": sizes | special}
    project.set("defaults.texts", {"max_tokens": 6})
    assert stillhouse("validate", project.write()).code == 0
    error = stillhouse("validate", "--deep", project.write()).error
    assert "specialists.medical.model.config.n_positions: 6" in error and "12 tokens" in error


def test_a_base_that_holds_less_than_the_teachers_texts(project: Project, stillhouse: Command) -> None:
    project.model("student", experts=0, max_position_embeddings=10)
    project.set("specialists.legal.model", {"base": "student", "config": None})
    error = stillhouse("validate", project.write()).error
    assert error.startswith("error: specialists.legal.model: max_position_embeddings of ") and "12 tokens" in error


def test_one_long_text_that_no_sample_met_is_found_when_prompts_are_frozen(project: Project) -> None:
    """And nothing is written."""
    rows = [{"id": i, "prompt": "the fever is high " + "rest " * (40 if i == 41 else 1)} for i in range(2000)]
    project.rows("medical.jsonl", *rows)
    project.set("specialists", {"medical": {}})
    project.set("prompts", {"medical": "medical.jsonl"})
    project.set("defaults.model.config.max_position_embeddings", 40)
    config = project.load().located()
    storage = project.folder / "run"
    with pytest.raises(ValueError, match=r"max_position_embeddings: 40, but its texts may have 52 tokens"):
        freeze(config, str(storage))
    assert not (storage / PROMPTS_SUMMARY).exists()
