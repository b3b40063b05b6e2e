"""Folders of models that cannot be loaded: told by `validate`, before weights are read."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.project import Project

Command = Callable[..., Any]
"""The `stillhouse` fixture: words -> Outcome."""

WHERE = {"teacher": "teacher.model", "base": "specialists.legal.model.base"}


def safetensors(path: Path, *names: str, cut: int = 0, more: int = 0) -> None:
    """A safetensors file of four bytes a tensor, with bytes missing or too many at its end."""
    entries = {n: {"dtype": "F32", "shape": [1], "data_offsets": [4 * i, 4 * i + 4]} for i, n in enumerate(names)}
    header = json.dumps({"__metadata__": {"format": "pt"}, **entries}).encode()
    whole = struct.pack("<Q", len(header)) + header + bytes(4 * len(names) + more)
    path.write_bytes(whole[: len(whole) - cut])


@pytest.fixture(params=["teacher", "base"])
def broken(request: pytest.FixtureRequest, project: Project) -> tuple[Path, str]:
    """The folder that is to be broken, and how messages name its setting."""
    if request.param == "base":
        project.model("base", experts=0)
        project.set("specialists.legal.model", {"base": "base", "config": None})
    return project.folder / request.param, WHERE[request.param]


def error_of(project: Project, stillhouse: Command, where: str) -> str:
    error: str = stillhouse("validate", project.write()).error
    assert error.startswith(f"error: {where}: "), error
    return error


def test_no_weights(broken: tuple[Path, str], project: Project, stillhouse: Command) -> None:
    (broken[0] / "model.safetensors").unlink()
    assert "has no weights (model.safetensors)" in error_of(project, stillhouse, broken[1])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not a whole safetensors file"),
        (b"\x05", "not a whole safetensors file"),
        (b"{" * 30, "its header alone has more"),
        (struct.pack("<Q", 4) + b"abcd", "its header is not JSON"),
        (struct.pack("<Q", 2) + b"[]", "its header is not JSON"),
        (struct.pack("<Q", 9) + b'{"a":"b"}', "its header is not JSON"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n", "git lfs pull"),
    ],
    ids=lambda v: repr(v)[:20],
)
def test_a_file_of_weights_that_is_none(
    broken: tuple[Path, str], project: Project, stillhouse: Command, content: bytes, words: str
) -> None:
    (broken[0] / "model.safetensors").write_bytes(content)
    assert words in error_of(project, stillhouse, broken[1])


@pytest.mark.parametrize(("cut", "more"), [(1, 0), (4, 0), (0, 1)])
def test_weights_that_were_cut_off(
    broken: tuple[Path, str], project: Project, stillhouse: Command, cut: int, more: int
) -> None:
    safetensors(broken[0] / "model.safetensors", "a", "b", cut=cut, more=more)
    error = error_of(project, stillhouse, broken[1])
    assert "not a whole safetensors file" in error and "its header says" in error and "fetch it again" in error


def index(folder: Path, **where: str) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))


def test_a_shard_that_is_not_there(broken: tuple[Path, str], project: Project, stillhouse: Command) -> None:
    index(broken[0], a="model-1.safetensors", b="model-2.safetensors")
    safetensors(broken[0] / "model-1.safetensors", "a")
    assert "names 'model-2.safetensors', which is not there" in error_of(project, stillhouse, broken[1])


def test_a_tensor_that_is_not_in_its_shard(broken: tuple[Path, str], project: Project, stillhouse: Command) -> None:
    index(broken[0], a="model-1.safetensors", b="model-1.safetensors")
    safetensors(broken[0] / "model-1.safetensors", "a")
    assert "'model-1.safetensors' has b, which it has not" in error_of(project, stillhouse, broken[1])


def test_whole_shards_are_fine(broken: tuple[Path, str], project: Project, stillhouse: Command) -> None:
    index(broken[0], a="model-1.safetensors", b="model-2.safetensors")
    safetensors(broken[0] / "model-1.safetensors", "a")
    safetensors(broken[0] / "model-2.safetensors", "b")
    assert stillhouse("validate", project.write()).code == 0


@pytest.mark.parametrize("content", ["{", "[]", '{"weight_map": []}'])
def test_an_index_that_is_none(broken: tuple[Path, str], project: Project, stillhouse: Command, content: str) -> None:
    index(broken[0])
    (broken[0] / "model.safetensors.index.json").write_text(content)
    safetensors(broken[0] / "model-1.safetensors", "a")
    assert "model.safetensors.index.json" in error_of(project, stillhouse, broken[1])


def test_weights_of_fewer_layers(broken: tuple[Path, str], project: Project, stillhouse: Command) -> None:
    """transformers would make the others up, at random."""
    safetensors(broken[0] / "model.safetensors", "model.layers.0.mlp.up_proj.weight")
    error = error_of(project, stillhouse, broken[1])
    assert "has weights of 1 layers, and its config.json says 2" in error


@pytest.mark.parametrize("name", ["generation_config.json", "special_tokens_map.json", "added_tokens.json"])
def test_a_broken_file_beside_the_weights(
    broken: tuple[Path, str], project: Project, stillhouse: Command, name: str
) -> None:
    (broken[0] / name).write_text("{")
    assert name in error_of(project, stillhouse, broken[1])


@pytest.mark.parametrize("content", ["{", "[]", ""])
def test_a_broken_configuration(broken: tuple[Path, str], project: Project, stillhouse: Command, content: str) -> None:
    (broken[0] / "config.json").write_text(content)
    assert "config.json" in error_of(project, stillhouse, broken[1])


@pytest.mark.parametrize(
    ("key", "value"),
    [("num_hidden_layers", "two"), ("hidden_size", 0), ("vocab_size", 1.5), ("num_experts", "many")],
)
def test_a_configuration_of_no_sizes(
    broken: tuple[Path, str], project: Project, stillhouse: Command, key: str, value: Any
) -> None:
    path = broken[0] / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    assert f"{key}: {value!r}" in error_of(project, stillhouse, broken[1])


def test_adapters_are_no_model(broken: tuple[Path, str], project: Project, stillhouse: Command) -> None:
    (broken[0] / "adapter_config.json").write_text("{}")
    (broken[0] / "config.json").unlink()
    assert "holds adapters" in (error := error_of(project, stillhouse, broken[1])) and "merge_and_unload" in error


def test_a_quantised_base(project: Project, stillhouse: Command) -> None:
    project.model("base", experts=0, quantization_config={"quant_method": "awq"})
    project.set("specialists.legal.model", {"base": "base", "config": None})
    error = error_of(project, stillhouse, WHERE["base"])
    assert "quantised (awq)" in error and "name an unquantised copy" in error


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 and no more"])
def test_weights_of_the_older_format_that_were_cut_off(
    broken: tuple[Path, str], project: Project, stillhouse: Command, content: bytes
) -> None:
    (broken[0] / "model.safetensors").unlink()
    (broken[0] / "pytorch_model.bin").write_bytes(content)
    assert "pytorch_model.bin' is cut off" in error_of(project, stillhouse, broken[1])


def test_weights_that_are_to_be_downloaded_are_not_missed(
    project: Project, stillhouse: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a model on the Hub, only configuration and tokenizer are there before a run. What is there is looked at."""
    snapshot = project.model("snapshot")
    (snapshot / "model.safetensors").unlink()
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: str(snapshot))
    project.set("teacher.model", "acme/teacher")
    assert stillhouse("validate", project.write()).code == 0
    (snapshot / "model.safetensors").write_bytes(b"")
    assert "not a whole safetensors file" in error_of(project, stillhouse, "teacher.model")


def test_a_mixture_by_another_spelling_is_no_dense_student(project: Project, stillhouse: Command) -> None:
    project.model("base", experts=0, model_type="ernie4_5_moe", moe_num_experts=8)
    project.set("specialists.legal.model", {"base": "base", "config": None})
    assert "mixture of 8 experts" in stillhouse("validate", project.write()).error
