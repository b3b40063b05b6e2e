"""Runs whose teacher lies on the Hub or in S3: what the checks read of it; and that a run keeps to its commit."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from support.project import Outcome, Project
from support.servers.s3_servers import reached_at

from cluster.storage import open_storage
from orchestrator.config.schema import RunConfig
from orchestrator.preflight.checks import check
from orchestrator.runs.folder import RunFolder
from orchestrator.stages.capture import open_stores, pinned, replica_job
from workers.fetching import hub

COMMITS = ["a" * 40, "b" * 40]


@pytest.fixture
def cached(project: Project, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """A Hub's cache without weights, as a driver has it, whose main branch is put at a commit. There is no network."""
    cache = project.folder / "hub"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    model = cache / "models--acme--teacher"
    for commit in COMMITS:
        shutil.copytree(project.folder / "teacher", model / "snapshots" / commit)
        (model / "snapshots" / commit / "model.safetensors").unlink()
    (model / "refs").mkdir()
    project.set("teacher.model", "acme/teacher")

    def move(commit: str) -> None:
        (model / "refs" / "main").write_text(commit)
        hub._commits.clear()

    return move


def opened(project: Project, *sets: str) -> tuple[RunFolder, RunConfig]:
    """The run with its stores open, as a driver has them before a teacher starts."""
    file = project.load(*sets)
    config = file.located()
    run = RunFolder.of(config)
    run.refuse_other(file.config)
    run.open(file)
    open_stores(run, config, check(file, frozen_will_do=False).tokenizer, 12)
    return run, config


def test_a_run_keeps_to_the_commit_that_it_began_with(project: Project, cached: Callable[[str], None]) -> None:
    project.set("evaluate", {"targets": "full"})
    first, second = COMMITS
    cached(first)
    run, config = opened(project)
    assert replica_job(run.uri, config, "teacher", 1, "").teacher.revision == first
    opened(project)
    cached(second)
    with pytest.raises(ValueError, match=f"set teacher.revision: {first}"):
        opened(project)
    run, config = opened(project, f"teacher.revision={first}")
    assert replica_job(run.uri, config, "teacher", 1, "").teacher.revision == first
    with pytest.raises(ValueError, match=r"teacher\.revision"):
        opened(project, f"teacher.revision={second}")
    with pytest.raises(ValueError, match="another configuration"):
        opened(project, "teacher.revision=v2")


def test_a_teacher_that_no_commit_tells_is_left_as_it_is(project: Project) -> None:
    teacher = project.load().located().teachers["teacher"]
    assert pinned(teacher, "0" * 64) == teacher == pinned(teacher, "s3:" + "0" * 64)


def test_the_checks_read_a_teacher_in_s3_without_its_weights(
    project: Project,
    stillhouse: Callable[..., Outcome],
    moto_endpoint: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("STILLHOUSE_MODEL_CACHE", "is set again by the command")
    with reached_at(moto_endpoint) as bucket:
        open_storage(bucket).upload_folder(project.folder / "teacher", "elsewhere/teacher")
        project.set("teacher.model", f"{bucket}/elsewhere/teacher")
        project.set("cluster.model_cache", str(tmp_path / "cache"))
        shutil.rmtree(project.folder / "teacher")
        for command in ("validate", "plan"):
            assert stillhouse(command, project.write()).code == 0
        assert list((tmp_path / "cache").rglob("tokenizer.json"))
        assert not list((tmp_path / "cache").rglob("*.safetensors"))
        project.set("teacher.model", f"{bucket}/elsewhere/nothing")
        assert "teacher.model: there is nothing at" in stillhouse("validate", project.write()).error


@pytest.mark.parametrize(
    ("where", "value", "words"),
    [
        ("cluster.runtime_env", {"env_vars": {"HF_TOKEN": "hf_planted"}}, ["env_vars.HF_TOKEN", "HF_TOKEN_PATH"]),
        ("cluster.model_cache", "models", ["cluster.model_cache", "relative"]),
    ],
)
def test_settings_of_models_that_would_do_harm_are_refused(
    project: Project, stillhouse: Callable[..., Outcome], where: str, value: object, words: list[str]
) -> None:
    project.set(where, value)
    said = stillhouse("validate", project.write()).error
    assert [word for word in words if word not in said] == [] and "hf_planted" not in said
