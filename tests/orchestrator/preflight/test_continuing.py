"""What a run that goes on needs of the older one: told before a model loads."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from support.older.generations import finished_project, second
from support.project import STUDENT, Project

from orchestrator.config.loading import ConfigFile
from orchestrator.preflight.checks import check
from orchestrator.runs.folder import RunFolder
from workers.layout import StudentLayout

Command = Callable[..., Any]


@pytest.fixture
def first(project: Project) -> RunFolder:
    return finished_project(project)


def refused(file: ConfigFile) -> str:
    with pytest.raises(ValueError) as caught:
        check(file)
    assert not RunFolder.of(file.located()).storage.exists("prompts")
    return str(caught.value)


def test_what_is_right_is_accepted(project: Project, first: RunFolder) -> None:
    assert not [note for note in check(second(project)).notes if "generation" in note]


def test_a_teacher_of_another_tokenizer(project: Project, first: RunFolder) -> None:
    project.model("other", words=["other", "words"], experts=0)
    project.set("teacher.model", "other")
    said = refused(second(project))
    assert said.startswith("teacher.model: its tokenizer is not that of generation 1") and "same family" in said


def test_a_specialist_of_another_shape(project: Project, first: RunFolder) -> None:
    project.set("specialists.legal.model", {"config": {**STUDENT, "intermediate_size": 32}})
    said = refused(second(project))
    assert said.startswith("specialists.legal.model: ") and "intermediate_size 32, was 64" in said
    assert "another name" in said


def test_a_specialist_that_was_not_trained(project: Project, first: RunFolder) -> None:
    file = second(project)
    first.storage.delete(StudentLayout("legal").done)
    assert refused(file).startswith("specialists.legal: generation 1 has not finished training it")


def test_new_and_left_specialists_are_named(project: Project, first: RunFolder) -> None:
    project.data["specialists"] = {"medical": {}, "fresh": {"mix": {"legal": 1}}}
    notes = check(second(project)).notes
    assert any(note.startswith("specialists.fresh is none of generation 1: it starts from its model") for note in notes)
    assert any("specialists.legal of the older generation" in note for note in notes)


@pytest.mark.parametrize("replay", ["20%", "0%"])
def test_targets_of_another_kind_are_not_replayed(project: Project, first: RunFolder, replay: str) -> None:
    project.set("targets.scheme", "hidden")
    project.set("continues.replay", replay)
    file = second(project)
    if replay == "0%":
        check(file)
        return
    said = refused(file)
    assert said.startswith("targets.scheme: hidden, but the targets of generation 1 are systematic")
    assert "continues.replay to 0%" in said


def test_a_former_self_is_a_teacher_once_it_is_exported(project: Project, first: RunFolder) -> None:
    project.set("teacher.model", "specialist:medical")
    file = second(project)
    assert "is not exported" in refused(file) and "stillhouse export" in refused(file)
    storage = first.storage
    storage.copy_folder(StudentLayout("medical").final, "exports/medical")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        storage.write(f"exports/medical/{name}", (project.folder / "teacher" / name).read_bytes())
    assert check(file).teacher_folders["teacher"].name == "medical"


def test_a_former_self_is_none_of_a_first_generation(project: Project, stillhouse: Command) -> None:
    project.set("teacher.model", "specialist:medical")
    error = stillhouse("validate", project.write()).error
    assert error.startswith("error: teacher.model: 'specialist:medical'") and "--continue" in error


def test_a_generation_that_is_not_there(project: Project, stillhouse: Command) -> None:
    project.set("continues.generation", 1)
    assert "no run at" in stillhouse("validate", project.write()).error
    for wrong in (0, -1):
        project.set("continues.generation", wrong)
        assert "continues.generation" in stillhouse("validate", project.write()).refusal[0]
    project.data["continues"] = {"generation": 1, "replay": "100%"}
    assert "continues.replay" in stillhouse("validate", project.write()).refusal[0]


def test_validate_says_what_is_new(project: Project, first: RunFolder, stillhouse: Command) -> None:
    second(project)
    project.set("continues.generation", 1)
    project.set("specialists.fresh", {"mix": {"legal": 1}})
    done = stillhouse("validate", project.write(), "--json")
    assert any("fresh" in note for note in json.loads(done.out)["notes"])
