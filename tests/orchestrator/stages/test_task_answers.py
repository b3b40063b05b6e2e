"""Items of tasks from their file to retention: frozen in the run, asked of each model once, gathered."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from support.captured_run import CapturedRun, capture, save_student, score_split, tasks_of, train_medical
from support.project import Project
from support.toys.choice_questions import WORDS, choice_rows
from transformers import AutoModelForCausalLM

from orchestrator.config.schema import RunConfig
from orchestrator.preflight.checks import check
from orchestrator.reporting.evaluation import compare
from orchestrator.stages.evaluation import scoring_job
from orchestrator.stages.scoring.gathered import gathered
from orchestrator.stages.scoring.tasks import missing_tasks
from workers.evaluation.scorer import Scorer
from workers.evaluation.tasks.asked import freeze_items
from workers.layout import StudentLayout
from workers.splits import BRIDGES, BRIDGES_COMPARED, TASKS


@pytest.fixture
def asked(capture_project: Project) -> tuple[CapturedRun, Project]:
    """A captured run of which one specialist and its control are trained."""
    project = capture_project
    project.set("evaluate", {"heldout": 0.5, "bootstrap": 100})
    captured = capture(project)
    train_medical(captured)
    return captured, project


def with_tasks(captured: CapturedRun, project: Project, **tasks: Any) -> RunConfig:
    """The configuration with tasks, which are kept in the run as its session does."""
    project.set("evaluate.tasks", tasks)
    found = check(project.load())
    freeze_items(captured.run.storage, [unit for task in found.take_tasks() for unit in task.units])
    return project.load().located()


def score_all(captured: CapturedRun, config: RunConfig) -> dict[str, int]:
    """Score what is missing; of each model, the files of items."""
    return score_split(captured, config, TASKS)


def test_each_model_is_asked_the_items_of_its_domains_once(asked: tuple[CapturedRun, Project]) -> None:
    captured, project = asked
    project.rows("facts.jsonl", *choice_rows(70))
    config = with_tasks(captured, project, facts="facts.jsonl")
    assert score_all(captured, config) == {"medical": 2, "medical.initial": 2, "medical.hard_labels": 2, "teacher": 2}
    assert score_all(captured, config) == {}
    (project.folder / "facts.jsonl").unlink()  # the run has its own
    results = gathered(captured.run, tasks_of(captured, config))
    counts = {model: {d: len(a) for d, a in by.items()} for model, by in results.answers.items()}
    both = {"medical": 35, "legal": 35}
    own = {"medical": 35}
    assert counts == {"medical": both, "teacher": both, "medical.initial": own, "medical.hard_labels": own}
    for item, answer in results.answers["teacher"]["medical"]:
        assert answer.correct == (answer.given == item.answer) and len(answer.logprobs) == 4
    found = compare(results, config).tasks["medical"]["medical"]
    assert found.items == 35 and found.chance == 0.25 and found.initial is not None and found.hard_labels is not None
    assert found.specialist.recovery is not None


def test_the_teacher_is_the_one_that_answered(asked: tuple[CapturedRun, Project]) -> None:
    """Its choices are those of the model in its folder, which no store holds."""
    captured, project = asked
    project.rows("facts.jsonl", *choice_rows(6))
    config = with_tasks(captured, project, facts="facts.jsonl")
    score_all(captured, config)
    answers = gathered(captured.run, tasks_of(captured, config)).answers["teacher"]
    teacher = AutoModelForCausalLM.from_pretrained(config.teachers["teacher"].model).eval()
    ids = {word: i + 2 for i, word in enumerate(WORDS)}
    for item, answer in (pair for pairs in answers.values() for pair in pairs):
        prompt = [ids[word] for word in item.prompt.split()]
        for choice, logprob in zip(item.choices, answer.logprobs, strict=True):
            words = [ids[word] for word in choice.split()]
            with torch.no_grad():
                logq = teacher(torch.tensor([prompt + words])).logits[0].log_softmax(-1)
            by_hand = sum(float(logq[len(prompt) - 1 + i, word]) for i, word in enumerate(words))
            assert logprob == pytest.approx(by_hand, abs=1e-4)


def test_what_changed_is_asked_anew_and_nothing_else(asked: tuple[CapturedRun, Project]) -> None:
    captured, project = asked
    project.rows("facts.jsonl", *choice_rows(6))
    project.rows("more.jsonl", *(row | {"domain": "elsewhere"} for row in choice_rows(3)))
    score_all(captured, with_tasks(captured, project, facts="facts.jsonl"))
    both = with_tasks(captured, project, more="more.jsonl", facts="facts.jsonl")
    assert score_all(captured, both) == {"medical": 1, "teacher": 1}, "the new task, of those who are asked its domain"
    project.rows("facts.jsonl", *choice_rows(5))
    assert score_all(captured, with_tasks(captured, project, facts="facts.jsonl"))["medical"] == 1
    save_student(captured, StudentLayout("medical").initial, seed=9)
    changed = score_all(captured, with_tasks(captured, project, facts="facts.jsonl"))
    assert changed == {"medical.initial": 1}


def test_several_processes_find_the_same_answers(asked: tuple[CapturedRun, Project]) -> None:
    captured, project = asked
    project.rows("facts.jsonl", *choice_rows(140))
    config = with_tasks(captured, project, facts="facts.jsonl")
    tasks = tasks_of(captured, config)
    pieces = missing_tasks(captured.run, tasks, 3)
    job = scoring_job(captured.run, config, "")
    scorers = [Scorer(job) for _ in range(3)]
    for i, piece in enumerate(pieces):
        scorers[i % 3](piece)
    apart = gathered(captured.run, tasks).answers
    for task in tasks:
        for unit in task.units:
            captured.run.storage.delete(unit.key)
    score_all(captured, config)
    assert gathered(captured.run, tasks).answers == apart


def test_written_answers_are_marked(asked: tuple[CapturedRun, Project], tmp_path: Path) -> None:
    captured, project = asked
    items: list[dict[str, Any]] = [{"id": i, "prompt": f"the {WORDS[i]}", "answer": "(\\w+ ?)*"} for i in range(4)]
    project.rows("patterns.jsonl", *items)
    project.rows("code.jsonl", {"prompt": "the rule", "tests": "raise ValueError"})
    project.set("evaluate.run_code", True)
    config = with_tasks(
        captured,
        project,
        patterns={"path": "patterns.jsonl", "domain": "medical", "marking": "regex", "max_new_tokens": 3},
        code={"path": "code.jsonl", "domain": "medical", "max_new_tokens": 2},
    )
    score_all(captured, config)
    answers = gathered(captured.run, tasks_of(captured, config)).answers["medical"]["medical"]
    assert [answer.correct for item, answer in answers if item.task == "patterns"] == [True] * 4
    assert [answer.correct for item, answer in answers if item.task == "code"] == [False]
    assert all(0 < answer.confidence <= 1 for _, answer in answers)


def test_students_are_looked_at_where_their_teachers_answers_hang(asked: tuple[CapturedRun, Project]) -> None:
    """In two rounds, and once; the controls on the specialist's own domain."""
    captured, project = asked
    project.rows("words.jsonl", *({"id": w, "prompt": f"the {w}", "answer": "(\\w+ )*(rest|pay|is|a)"} for w in WORDS))
    project.rows("facts.jsonl", *choice_rows(4))
    words = {"path": "words.jsonl", "domain": "medical", "marking": "regex", "max_new_tokens": 4}
    project.set("evaluate.bridges", {"texts": 5, "positions": 3, "sure": 0.01})
    config = with_tasks(captured, project, words=words, facts="facts.jsonl")
    tasks = tasks_of(captured, config)
    [teacher] = [task for task in tasks if task.model.kind == "whole_teacher"]
    assert [(u.domain, len(u.files)) for u in teacher.units if u.split == BRIDGES] == [("medical", 2)]
    later = [task for task in tasks if task.after]
    models = [task.model.name for task in later for unit in task.units if unit.split == BRIDGES_COMPARED]
    assert sorted(models) == ["medical", "medical.hard_labels", "medical.initial"]
    assert len({task.model for task in later}) == len(later), "a model is loaded once in a round"
    scorer = Scorer(scoring_job(captured.run, config, ""))
    for task in sorted(missing_tasks(captured.run, tasks, 3), key=lambda task: task.after):
        scorer(task)
    assert missing_tasks(captured.run, tasks_of(captured, config), 1) == []
    results = gathered(captured.run, tasks)
    right = sum(answer.correct for item, answer in results.answers["teacher"]["medical"] if item.task == "words")
    found = compare(results, config).bridges
    assert found.keys() == {"medical"}
    own = found["medical"]
    assert right and own.texts == min(right, 5) <= own.asked <= 10 and own.texts <= own.tokens <= 3 * own.texts
    assert 0 < own.bridges < own.tokens and own.kl_at_bridges.value > 0 and own.kl_elsewhere.value > 0
    assert own.initial is not None and own.hard_labels is not None and own.initial.kl_at_bridges != own.kl_at_bridges
    save_student(captured, StudentLayout("medical").initial, seed=8)
    again = missing_tasks(captured.run, tasks_of(captured, config), 1)
    assert {(task.model.name, task.after) for task in again} == {("medical.initial", False), ("medical.initial", True)}
    project.set("evaluate.bridges", None)
    without = tasks_of(captured, project.load().located())
    assert not {unit.split for task in without for unit in task.units} & {BRIDGES, BRIDGES_COMPARED}
