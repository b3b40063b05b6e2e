"""Which generation is next, which ones it goes on from, and which one a name means."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.older.generations import ask_anew, finish, finished_project, second
from support.project import Project

from orchestrator.config.continuing import run_uri
from orchestrator.runs.folder import RunFolder, find_run
from orchestrator.runs.generations import (
    continuing,
    copy_between,
    generation_name,
    next_generation,
    older_runs,
    trained_before,
)
from workers.layout import REPORT_JSON, StudentLayout, generation_uri, split_generation

Command = Callable[..., Any]


@pytest.fixture
def first(project: Project) -> RunFolder:
    return finished_project(project)


# Folders ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("run", ["runs/clinic", "s3://bucket/runs/clinic", "/a/generations/7/clinic"])
@pytest.mark.parametrize("number", [1, 2, 13])
def test_a_generation_s_folder_says_whose_and_which_it_is(run: str, number: int) -> None:
    assert split_generation(generation_uri(run, number)) == (run, number)
    assert split_generation(generation_uri(run, number) + "/") == (run, number)


def test_a_run_s_folder_holds_its_generations(project: Project) -> None:
    home = str(project.folder / "runs" / "trial")
    assert run_uri(project.load().located()) == home
    assert run_uri(project.load("continues.generation=1").located()) == f"{home}/generations/2"
    elsewhere = project.load("continues.generation=runs/other/generations/3")
    assert run_uri(elsewhere.located()) == home, "another run's generation begins a run of its own"
    with pytest.raises(ValueError, match=r"continues.generation: not given; .*--continue"):
        run_uri(project.load("continues.replay=10%").located())


# The next one -------------------------------------------------------------------------------------------------


def test_new_prompts_open_the_next_generation(project: Project, first: RunFolder) -> None:
    file = second(project)
    assert file.config.continues is not None
    assert (file.config.continues.generation, file.config.continues.replay) == (1, 0.2)
    assert RunFolder.of(file.located()).generation == 2
    assert not Path(run_uri(file.located())).exists(), "nothing is made by asking"


def test_one_that_has_begun_goes_on_and_one_that_is_finished_is_followed(project: Project, first: RunFolder) -> None:
    file = second(project)
    run = RunFolder.of(file.located())
    run.open(file)
    assert next_generation(project.load()).config == file.config
    with pytest.raises(ValueError, match=r"generation 2 .* not finished \(medical, legal not trained\).*seed: 0 -> 5"):
        next_generation(project.load("seed=5"))
    finish(run, "medical", "legal")
    third = next_generation(project.load("seed=5"))
    assert third.config.continues is not None and third.config.continues.generation == 2


def test_more_training_of_the_same_is_a_generation_too(project: Project, first: RunFolder) -> None:
    file = next_generation(project.load("defaults.train.tokens=2k"))
    assert file.config.continues is not None and file.config.continues.generation == 1


def test_a_run_that_is_not_evaluated_is_not_finished(project: Project, first: RunFolder) -> None:
    first.storage.delete(REPORT_JSON)
    assert next_generation(project.load()).config.continues is None, "it resumes the first"
    with pytest.raises(ValueError, match=r"generation 1 .* not finished \(not evaluated\).*prompts.medical.path"):
        second(project)


def test_nothing_new_is_refused_with_what_to_change(project: Project, first: RunFolder, stillhouse: Command) -> None:
    error = stillhouse("run", project.write(), "--continue").error
    assert "generation 1" in error and "nothing new" in error and "new prompts" in error
    project.set("specialists.both", {"mix": {"medical": 0.5, "legal": 0.5}})
    assert "both alone can be added" in stillhouse("run", project.write(), "--continue").error


def test_a_run_that_is_not_there_is_not_continued(project: Project, stillhouse: Command) -> None:
    error = stillhouse("run", project.write(), "--continue").error
    assert "no run at" in error and "`stillhouse run CONFIG`" in error and "taken out" not in error
    project.set("continues.replay", "10%")
    assert "once continues is taken out" in stillhouse("run", project.write(), "--continue").error
    assert "--continue" in stillhouse("run", project.write()).error


def test_another_configuration_without_continue_names_it(
    project: Project, first: RunFolder, stillhouse: Command
) -> None:
    ask_anew(project)
    assert "--continue" in stillhouse("run", project.write()).error


# Older ones ---------------------------------------------------------------------------------------------------


def test_older_generations_are_found_through_other_runs(project: Project, first: RunFolder) -> None:
    file = second(project)
    run = RunFolder.of(file.located())
    run.open(file)
    finish(run, "medical", "legal")
    other = project.load("name=other", f"continues.generation={run.uri}").located()
    branch = RunFolder.of(other)
    older = older_runs(branch, other.continues)
    assert [one.uri for one in older] == [first.uri, run.uri]
    assert [generation_name(one, branch) for one in older] == ["trial@1", "trial@2"]
    assert [generation_name(one, run) for one in older_runs(run, file.config.continues)] == ["1"]
    assert continuing(branch, other) == ["medical", "legal"] and continuing(first, first.config()) == []
    assert trained_before(first, first.config()) is None


def test_a_run_does_not_go_on_from_itself(project: Project, first: RunFolder) -> None:
    file = project.load("name=ring", f"continues.generation={first.uri.replace('trial', 'ring')}")
    ring = RunFolder.of(file.located())
    ring.open(file)
    with pytest.raises(ValueError, match="goes on from itself"):
        older_runs(ring, file.located().continues)


@pytest.mark.parametrize("name", ["trial", "elsewhere"])
def test_weights_are_copied_within_a_run_and_between_runs(project: Project, first: RunFolder, name: str) -> None:
    target = RunFolder(f"{project.folder}/runs/{name}/generations/2")
    layout = StudentLayout("medical")
    for _ in range(2):
        copy_between(first, layout.final, target, layout.initial)
    files = (f"{key}/model.safetensors" for key in (layout.final, layout.initial))
    one, other = (run.storage.read(key) for run, key in zip((first, target), files, strict=True))
    assert one == other


# Names --------------------------------------------------------------------------------------------------------


def test_a_run_s_name_means_its_last_generation(project: Project, first: RunFolder) -> None:
    assert find_run("trial").generation == 1
    file = second(project)
    run = RunFolder.of(file.located())
    run.open(file)
    home = first.uri
    for name in ("trial", "runs/trial", "runs/trial/", home, str(project.write())):
        assert find_run(name).generation == 2, name
    for name, number in (("trial@1", 1), ("trial@2", 2), (f"{home}@1", 1), (f"{home}/generations/2", 2)):
        assert find_run(name).generation == number
    with pytest.raises(ValueError, match="no run at"):
        find_run("trial@3")
    with pytest.raises(ValueError, match="name the run's folder"):
        find_run(f"{home}/generations/2@1")


def test_a_generation_that_was_moved_finds_its_older_ones(project: Project, first: RunFolder) -> None:
    project.set("teacher.model", "specialist:medical")
    file = second(project)
    assert file.located().teachers["teacher"].model == f"{first.uri}/exports/medical"
    RunFolder.of(file.located()).open(file)
    (project.folder / "archive").mkdir()
    moved = project.folder / "archive" / "trial"
    Path(first.uri).rename(moved)
    assert find_run(str(moved)).located_config().teachers["teacher"].model == f"{moved}/exports/medical"
