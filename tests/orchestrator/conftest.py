"""Projects to configure, one small and one too large for this machine, and the command to run on them."""

from __future__ import annotations

import shutil
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.project import LARGE_STUDENT, STUDENT, Outcome, Project

from orchestrator.cli import app as cli
from orchestrator.runs.folder import RunFolder


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A right configuration: one teacher of four experts, two specialists. Its folder is the working directory."""
    monkeypatch.chdir(tmp_path)
    made = Project(tmp_path)
    made.model("teacher")
    for domain in ("medical", "legal"):
        made.rows(f"{domain}.jsonl", *({"id": i, "prompt": f"the {domain} fever {i}"} for i in range(8)))
    made.data = {
        "name": "trial",
        "storage": "runs",
        "teacher": {"model": "teacher", "sampling": {"max_new_tokens": 8}},
        "prompts": {"medical": "medical.jsonl", "legal": "legal.jsonl"},
        "defaults": {"model": {"config": dict(STUDENT)}, "train": {"tokens": 1000}},
        "specialists": {"medical": {}, "legal": {"mix": {"legal": 0.75, "medical": 0.25}}},
    }
    return made


@pytest.fixture
def large(project: Project) -> Project:
    """A teacher of 30 GB in bfloat16, 28 of them experts', on 4 GPUs, and two students of 1.4 billion on two each."""
    experts = {f"model.layers.{i}.mlp.experts.0.up_proj.weight": [7, 10**9] for i in range(2)}
    project.weights("teacher", experts | {"model.embed_tokens.weight": [1, 10**9]})
    project.set("teacher", {"model": "teacher", "ep_size": 4, "gpus_per_rank": 1, "replicas": [1, 2]})
    project.set("teacher.sampling", {"max_new_tokens": 8})
    project.set("defaults.model.config", {"model_type": "qwen3", "tie_word_embeddings": True, **LARGE_STUDENT})
    project.set("defaults.train", {"tokens": 1000, "workers": 2, "gpus_per_worker": 1, "zero": 2})
    project.set("evaluate", {"gpus": 1})
    return project


@pytest.fixture
def stillhouse(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """The command, run in this process. A traceback that would reach the user is in `err`, with exit code 1."""

    def run(*words: str | Path) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["stillhouse", *map(str, words)])
        capfd.readouterr()
        code, trace = 0, ""
        try:
            cli.main()
        except SystemExit as exit_:
            code = exit_.code if isinstance(exit_.code, int) else int(exit_.code is not None)
        except Exception:  # noqa: BLE001 - whatever a user would see
            code, trace = 1, traceback.format_exc()
        out, err = capfd.readouterr()
        return Outcome(code, out, err + trace)

    return run


@pytest.fixture
def capture_project(project: Project) -> Project:
    """A project whose teacher has weights; two domains of eight prompts, two of them held out, some answers given."""
    import torch
    from support.captured_run import give_weights

    torch.set_num_threads(1)
    project.model("dense", experts=0, head_dim=16, num_key_value_heads=2)
    project.set("teacher.model", "dense")
    give_weights(project.folder / "dense")
    for domain in ("medical", "legal"):
        rows: list[dict[str, Any]] = [{"id": str(i), "prompt": f"the {domain} fever is {i}"} for i in range(8)]
        rows[3]["answer"] = "rest is the rule"
        project.rows(f"{domain}.jsonl", *rows)
    project.set("teacher.sampling", {"max_new_tokens": 6, "samples": 2})
    project.set("targets", {"prompts_per_unit": 2})
    project.set("evaluate", {"heldout": 0.25})
    return project


@pytest.fixture(scope="session")
def captured_once() -> list[Path]:
    """The project whose run was captured first: later ones are copies of it."""
    return []


@pytest.fixture
def captured(capture_project: Project, captured_once: list[Path]) -> Any:
    """The capture project's run, whole: a CapturedRun."""
    from support.captured_run import CapturedRun, capture

    if not captured_once:
        run = capture(capture_project)
        shutil.copytree(capture_project.folder / "runs", capture_project.folder / "untouched")
        captured_once.append(capture_project.folder)
        return run
    shutil.copytree(captured_once[0] / "untouched", capture_project.folder / "runs")
    file = capture_project.load()
    run = RunFolder.of(file.located())
    run.open(file)
    return CapturedRun(run)
