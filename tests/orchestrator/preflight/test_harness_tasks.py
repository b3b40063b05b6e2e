"""Tasks of lm-evaluation-harness are found, or refused, before anything is loaded."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.project import Project

from orchestrator.preflight.checks import check
from workers.evaluation.harness.config import HarnessConfig
from workers.evaluation.harness.looking import look

Command = Callable[..., Any]
"""The `stillhouse` fixture: words -> Outcome."""


def task(name: str, **changes: Any) -> str:
    """A task of three items as YAML, of which JSON is a part."""
    settings = {
        **{"task": name, "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": "items.jsonl"}}},
        **{"test_split": "test", "output_type": "multiple_choice", "doc_to_text": "prompt", "doc_to_choice": "choices"},
        **{"doc_to_target": "answer", "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}]},
    }
    return json.dumps(settings | changes)


@pytest.fixture
def exams(project: Project, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A project with a task beside it."""
    monkeypatch.setenv("HF_HOME", str(project.folder / "cache"))
    project.rows("exams/items.jsonl", *({"prompt": "the fever is", "choices": ["high", "a"], "answer": 0},) * 3)
    project.text("exams/facts.yaml", task("facts"))
    project.set("evaluate.harness", {"include_path": "exams", "tasks": ["facts"]})
    return project


def fault(project: Project, *tasks: str, run_code: bool = False, **settings: Any) -> str:
    """Why tasks are refused."""
    asked = HarnessConfig(tasks=list(tasks), include_path=str(project.folder / "exams"), **settings)
    said: str = look(asked, run_code)["fault"]
    return said


def test_what_is_found_is_told_and_costs_nothing_but_a_look(exams: Project, stillhouse: Command) -> None:
    exams.set("evaluate.harness.limit", 2)
    told = stillhouse("plan", exams.write(), "--json")
    notes = [note for note in json.loads(told.out)["notes"] if "harness" in note]
    assert notes and "2 items of 1 tasks" in notes[0], told.err
    [found] = check(exams.load()).harness
    assert (found.name, found.items, found.metrics) == ("facts", {"facts": 2}, {"facts": ["acc", "acc_norm"]})


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"tasks": ["fcats"]}, ["evaluate.harness.tasks: 'fcats'", "'facts'?; ", "half.yaml cannot be read: while"]),
        ({"metric": "acc_nrom"}, ["evaluate.harness.metric: 'acc_nrom'", "acc, acc_norm"]),
        ({"include_path": "elsewhere"}, ["evaluate.harness.include_path: no such folder", "elsewhere"]),
        ({"chat": True}, ["evaluate.harness.chat: the tokenizer of '/teacher' has no chat template"]),
    ],
)
def test_a_wrong_setting_is_refused(
    exams: Project, stillhouse: Command, settings: dict[str, Any], words: list[str]
) -> None:
    exams.text("exams/half.yaml", "task: [half")  # is in nobody's way
    for name, value in settings.items():
        exams.set(f"evaluate.harness.{name}", value)
    error = stillhouse("validate", exams.write()).error
    assert all(word in error.replace(str(exams.folder), "") for word in words), error


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"tasks": []}, "evaluate.harness.tasks"),
        ({"tasks": ["facts", "facts"]}, "facts more than once"),
        ({"tasks": ["facts"], "limit": 0}, "evaluate.harness.limit"),
        ({"tasks": ["facts"], "num_fewshot": 2}, "evaluate.harness.num_fewshot: unknown key"),
    ],
)
def test_what_no_record_can_be_is_refused(exams: Project, settings: dict[str, Any], words: str) -> None:
    exams.set("evaluate.harness", settings)
    with pytest.raises(ValueError, match=words):
        exams.load()


def test_without_the_package_the_remedy_is_named(
    exams: Project, stillhouse: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *_: None if name == "lm_eval" else find(name))
    error = stillhouse("validate", exams.write()).error
    assert "evaluate.harness: the package lm-eval is not installed; pip install 'stillhouse[harness]'" in error
    assert stillhouse("plan", exams.write(), "--nodes", "cpu:0x2").code == 0, "the run is not for this machine"


def test_a_task_over_the_hub_is_refused_before_anybody_tries_to_reach_it(exams: Project) -> None:
    exams.text("exams/far.yaml", task("far", dataset_path="acme/questions", dataset_kwargs={}))
    said = fault(exams, "far")
    assert "'far' reads the data set 'acme/questions' of the Hugging Face Hub" in said
    assert "evaluate.harness.offline is on" in said and "dataset_path: json" in said


def test_a_file_that_is_not_there_is_named(exams: Project) -> None:
    exams.text("exams/lost.yaml", task("lost", dataset_kwargs={"data_files": {"test": ["items.jsonl", "lost.jsonl"]}}))
    said = fault(exams, "lost")
    assert "'lost' reads 'lost.jsonl', and there is no such file" in said and str(exams.folder / "exams") in said


def _settings(project: Project) -> HarnessConfig:
    return HarnessConfig(tasks=["facts"], include_path=str(project.folder / "exams"))


def test_a_task_that_cannot_be_asked_says_what_is_wrong_with_it(exams: Project) -> None:
    exams.text("exams/odd.yaml", task("odd", doc_to_text="{{ promt.question }}"))
    assert "'odd' cannot be loaded: UndefinedError" in fault(exams, "odd")


@pytest.mark.parametrize("marked", [{"unsafe_code": True}, {"metric_list": [{"metric": "code_eval"}]}])
def test_programs_are_run_by_choice_alone(exams: Project, marked: dict[str, Any], tmp_path: Path) -> None:
    """Not even what a task imports is run before that is settled; neither in a group, nor by a tag."""
    ran = tmp_path / "ran"
    exams.text("exams/code.py", f"open({str(ran)!r}, 'w')\ndef rows(docs): return docs\n")
    fields = task("programs", tag="coding", **marked)[:-1]
    exams.text("exams/programs.yaml", f'{fields}, "process_docs": !function code.rows}}')
    exams.text(
        "exams/group.yaml", json.dumps({"group": "all", "task": ["facts", {"group": "in", "task": ["programs"]}]})
    )
    for name in ("programs", "all", "coding"):
        assert "'programs' has tests" in (said := fault(exams, name)) and "evaluate.run_code is off" in said
        assert not ran.exists()
    if "unsafe_code" in marked:
        asked = HarnessConfig(tasks=["programs"], include_path=str(exams.folder / "exams"))
        assert look(asked, True)["tasks"][0]["items"] == {"programs": 3} and ran.exists()


def test_the_digest_is_of_what_is_asked_and_how(exams: Project) -> None:
    def digest(**settings: Any) -> str:
        found: str = look(_settings(exams).model_copy(update=settings), False)["tasks"][0]["digest"]
        return found

    first = digest()
    assert digest() == first and digest(metric="acc_norm") == first, "what is shown is not what is asked"
    assert len({first, digest(limit=2), digest(fewshot=1), digest(chat=True)}) == 4
    exams.text("exams/facts.yaml", task("facts", target_delimiter=": "))
    assert digest() != first
    exams.text("exams/facts.yaml", task("facts"))
    assert digest() == first
    exams.rows("exams/items.jsonl", *({"prompt": "the fever is", "choices": ["high", "a"], "answer": 1},) * 3)
    assert digest() != first
