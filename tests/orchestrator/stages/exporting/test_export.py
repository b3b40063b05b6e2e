"""Exports of a run: written, measured on its held-out texts, noted in its report; what cannot be written is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.captured_run import CapturedRun, capture, train_medical
from support.project import SPECIAL, WORDS, Project

from workers.export.artefact import KL_GATE, SUMS, Artefact, sha256_of, told
from workers.export.job import artefact_at
from workers.layout import StudentLayout

Command = Callable[..., Any]

GGUF = {"format": "gguf", "tokenizer": "none", "keep": ["o_proj"], "measure": 2}
"""Attention of the small student is 16 wide, and its tokenizer is of words."""


@pytest.fixture
def captured(capture_project: Project) -> CapturedRun:
    run = capture(capture_project)
    train_medical(run)
    run.run.storage.write(StudentLayout("medical").done, b'{"tokens": 4}')
    return run


def exports(stillhouse: Command, *words: object, code: int = 0) -> dict[str, Any]:
    outcome = stillhouse("export", *words, "--json")
    assert outcome.code == code, outcome.err
    found: dict[str, Any] = json.loads(outcome.out)
    return found


def test_a_file_is_measured_and_put_where_it_belongs(
    captured: CapturedRun, capture_project: Project, stillhouse: Command
) -> None:
    pytest.importorskip("gguf")
    pytest.importorskip("xllamacpp")
    capture_project.set("export", ["safetensors", GGUF])
    found = exports(stillhouse, capture_project.write())
    assert found["exports"] == ["exports/medical", "exports/medical.gguf"] and not found["failures"]
    copied, artefact = found["artefacts"]
    assert copied["path"] == "exports/medical" and copied["format"] == "safetensors float32"
    assert artefact["path"] == "exports/medical.gguf/medical-q4_0.gguf" and artefact["format"] == "gguf q4_0"
    folder = captured.run.storage.local_path("exports/medical.gguf")
    assert folder is not None
    file = folder / "medical-q4_0.gguf"
    assert (artefact["bytes"], artefact["sha256"]) == (file.stat().st_size, sha256_of(file))
    assert artefact["weights_differing"] == 0 and artefact["texts"] == 2 and artefact["same_ids"] is None
    assert artefact["kl_float"] > 0 and artefact["kl_fake_quant"] < min(KL_GATE, artefact["kl_float"])
    assert (
        -1 < artefact["overconfidence"] < 1
        and artefact["kl_teacher"] > 0
        and artefact["tokens_per_s"] > 0
        and artefact["peak_mb"] > 1
    )
    listed = dict(line.split("  ")[::-1] for line in (folder / SUMS).read_text().splitlines())
    assert listed.keys() == {"README.md", "artefact.json", file.name} == {p.name for p in folder.iterdir()} - {SUMS}
    assert all(sha256_of(folder / name) == digest for name, digest in listed.items())
    assert "## This file" in (folder / "README.md").read_text()
    asked = stillhouse("ask", "trial", "the fever is", "--files", "--no-teacher", "--tokens", "2", "--json")
    answers = json.loads(asked.out)["answers"]
    (token, near), (_, whole) = answers[artefact["path"]]["next"][0], answers["medical"]["next"][0]
    assert token in WORDS + SPECIAL and 0 < near < 1 and near != whole


def test_a_plain_copy_has_the_record_of_any_file(
    captured: CapturedRun, capture_project: Project, stillhouse: Command
) -> None:
    """It is the model that was trained: its program may add nothing to it but arithmetic, and its speed is told."""
    capture_project.set("export", [{"format": "safetensors", "measure": 2}])
    (artefact,) = exports(stillhouse, capture_project.write())["artefacts"]
    folder, trained = (captured.run.storage.local_path(k) for k in ("exports/medical", "students/medical/final"))
    assert folder is not None and trained is not None
    assert artefact["runtime"] == "transformers" and (artefact["texts"], artefact["weights_differing"]) == (2, 0)
    assert artefact["kl_float"] == artefact["kl_fake_quant"] < 1e-6 < artefact["kl_teacher"]
    assert artefact["tokens_per_s"] > 0 and artefact["first_token_ms"] > 0 and artefact["peak_mb"] > 1
    assert artefact["bytes"] == (folder / "model.safetensors").stat().st_size and artefact["sha256"]
    assert (folder / "model.safetensors").read_bytes() == (trained / "model.safetensors").read_bytes()
    listed = dict(line.split("  ")[::-1] for line in (folder / SUMS).read_text().splitlines())
    assert listed.keys() == {p.name for p in folder.iterdir()} - {SUMS} >= {"tokenizer.json", "artefact.json"}
    assert all(sha256_of(folder / name) == digest for name, digest in listed.items())
    assert "nats in transformers from the model as it was trained" in told(Artefact.from_dict(artefact))
    written = (folder / "model.safetensors").stat().st_mtime_ns
    (folder / "README.md").write_text("a card with earlier scores")
    assert exports(stillhouse, "trial")["artefacts"] == [artefact]
    assert (folder / "model.safetensors").stat().st_mtime_ns == written
    assert "## This file" in (folder / "README.md").read_text(), "a card is renewed without the weights"
    listed = dict(line.split("  ")[::-1] for line in (folder / SUMS).read_text().splitlines())
    assert listed["README.md"] == sha256_of(folder / "README.md")


def test_a_plain_copy_needs_no_held_out_text(
    captured: CapturedRun, capture_project: Project, stillhouse: Command
) -> None:
    log = captured.run.storage.local_path("targets/heldout/log")
    assert log is not None
    shutil.rmtree(log)
    (artefact,) = exports(stillhouse, capture_project.write())["artefacts"]
    assert artefact["kl_float"] is None and "not measured" in told(Artefact.from_dict(artefact))
    (why,) = exports(stillhouse, "trial", "--format", "safetensors:bfloat16", code=1)["failures"].values()
    assert "no held-out text of 'medical' is captured" in why and "measure: 0" in why


def test_what_is_there_is_not_made_again_unless_the_model_is_another(
    captured: CapturedRun, capture_project: Project, stillhouse: Command
) -> None:
    pytest.importorskip("gguf")
    capture_project.set("export", [GGUF | {"measure": 0}])
    (first,) = exports(stillhouse, capture_project.write())["artefacts"]
    assert first["kl_float"] is None and first["weights_differing"] is None, "not measured"
    path = captured.run.storage.local_path(first["path"])
    assert path is not None
    written = path.stat().st_mtime_ns
    exports(stillhouse, "trial")
    assert path.stat().st_mtime_ns == written
    captured.run.storage.write(StudentLayout("medical").done, b'{"tokens": 5}')
    exports(stillhouse, "trial")
    assert path.stat().st_mtime_ns != written
    (path.parent / SUMS).unlink()
    assert artefact_at(captured.run.storage, "exports/medical.gguf") is None, "not whole without its list"


def test_formats_of_the_command_line_and_of_a_folder(
    captured: CapturedRun, capture_project: Project, stillhouse: Command, tmp_path: Path
) -> None:
    pytest.importorskip("gguf")
    (artefact,) = exports(stillhouse, "trial", "--format", "safetensors:bfloat16")["artefacts"]
    assert artefact["path"] == "exports/medical.bfloat16" and artefact["weights_differing"] == 0
    model = captured.run.storage.local_path("students/medical/final")
    assert model is not None
    said = stillhouse("export", "--model", model, "--format", "gguf", "--out", tmp_path / "out").error
    assert said.startswith("error: --format gguf: there is no tokenizer") or "tokenizer" in said
    (model / "tokenizer.json").write_text(Path("teacher/tokenizer.json").read_text())
    said = stillhouse("export", "--model", model, "--format", "gguf", "--out", tmp_path / "out").error
    assert "found by WordLevel" in said and "--tokenizer none" in said and not (tmp_path / "out").exists()
    words = ("--format", "gguf:f16", "--tokenizer", "none", "--out", tmp_path / "ids alone")
    said = stillhouse("export", "--model", model, *words, "--json")
    assert said.code == 0 and (tmp_path / json.loads(said.out)["path"]).exists(), said.err
    said = stillhouse("export", "--model", model, "--format", "safetensors:bfloat16", "--out", tmp_path / "out")
    assert said.code == 0 and (tmp_path / "out" / SUMS).exists(), said.err
    assert (
        "is not empty"
        in stillhouse("export", "--model", model, "--format", "safetensors:bfloat16", "--out", tmp_path / "out").error
    )


def test_a_run_that_was_moved_is_exported_where_it_is(
    captured: CapturedRun, stillhouse: Command, tmp_path: Path
) -> None:
    shutil.copytree(tmp_path / "runs" / "trial", tmp_path / "elsewhere" / "trial")
    exports(stillhouse, "elsewhere/trial", "--format", "safetensors:bfloat16")
    assert (tmp_path / "elsewhere/trial/exports/medical.bfloat16" / SUMS).exists()
    assert not (tmp_path / "runs/trial/exports").exists()
    shutil.move(tmp_path / "elsewhere" / "trial", tmp_path / "elsewhere" / "other")
    assert "holds the run 'trial'" in stillhouse("export", "elsewhere/other").error


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "name a run"),
        (("trial", "--model", "teacher"), "one of the two"),
        (("trial", "--out", "x"), "--out and --texts are of --model"),
        (("trial", "--format", "onnx"), "--format onnx: onnx is not written: no exporter"),
        (("trial", "--format", "mlx"), "mlx is not written: MLX computes"),
        (("trial", "--format", "gguf:q3_k"), "--format gguf:q3_k: Input should be"),
        (("trial", "--format", "gguf", "--tokenizer", "mine"), "--tokenizer mine: Input should be 'own' or 'none'"),
        (("trial", "--tokenizer", "none"), "--tokenizer: is a setting of gguf files; add --format gguf"),
        (("trial", "--format", "safetensors", "--tokenizer", "none"), "--tokenizer: is a setting of gguf files"),
        (("trial", "--format", "compressed-tensors:float16", "--set", "a=1"), "--set: changes a YAML"),
        (("--model", "teacher", "--format", "gguf"), "--out FOLDER"),
        (("--model", "nowhere", "--format", "gguf", "--out", "x"), "no model folder"),
    ],
)
def test_wrong_words(words: tuple[str, ...], said: str, project: Project, stillhouse: Command) -> None:
    assert said in stillhouse("export", *words).error


@pytest.mark.parametrize(
    ("export", "changes", "said"),
    [
        (["onnx"], {}, "onnx is not written"),
        (["gguf"], {}, "medical cannot be written: the tokenizer cannot be written: its tokens are found by WordLevel"),
        ([GGUF | {"keep": []}], {}, "num_attention_heads x head_dim is 16, which blocks of 32 do not divide"),
        ([GGUF], {"model_type": "olmo2"}, "'olmo2' is not among the architectures"),
        (["compressed-tensors"], {}, "is 16, which groups of 32 do not divide"),
        ([GGUF | {"dtype": "float16"}], {}, "dtype is a setting of safetensors and compressed-tensors, not of gguf"),
        (["safetensors", {"format": "safetensors"}, "gguf"], {}, "safetensors is there twice"),
        ([GGUF | {"specialists": ["surgery"]}], {}, "export.0.specialists: 'surgery' is no specialist; there are"),
        ([GGUF | {"specialists": ["legal"], "keep": []}], {}, "legal cannot be written"),
    ],
)
def test_validate_refuses_what_cannot_be_written(
    export: list[Any], changes: dict[str, Any], said: str, project: Project, stillhouse: Command
) -> None:
    pytest.importorskip("gguf")
    project.set("export", export)
    for key, value in changes.items():
        project.set(f"defaults.model.config.{key}", value)
    assert said in stillhouse("validate", project.write()).error


def test_of_a_named_cluster_it_is_the_work(
    captured: CapturedRun, capture_project: Project, stillhouse: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This process makes no file then, and needs no package of the format; without a cluster it starts no Ray."""
    from ray.cluster_utils import Cluster

    capture_project.set("export", [{"format": "safetensors", "measure": 0}])
    file = capture_project.write()
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        with monkeypatch.context() as patch:
            patch.setenv("RAY_ADDRESS", cluster.address)
            patch.setattr("orchestrator.stages.export.run_apart", None)
            (artefact,) = exports(stillhouse, file)["artefacts"]
    finally:
        cluster.shutdown()
    assert artefact["sha256"] and artefact_at(captured.run.storage, "exports/medical") is not None
    captured.run.storage.delete("exports/medical")
    monkeypatch.setattr("ray.init", None)
    assert exports(stillhouse, file)["artefacts"] == [artefact]


def test_a_package_that_is_not_there_is_told(
    project: Project, stillhouse: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.export.formats.importlib.util.find_spec", lambda name: None)
    project.set("export", [GGUF])
    assert (
        "the package gguf is not installed; install stillhouse[gguf]" in stillhouse("validate", project.write()).error
    )
    project.set("cluster", {"address": "auto"})
    assert stillhouse("validate", project.write()).code == 0, "nodes write files, and may have it"
