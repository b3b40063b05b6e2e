"""Tasks of lm-evaluation-harness from their YAML to retention: found, asked of each model once, gathered."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lm_eval import simple_evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from support.captured_run import CapturedRun, capture, save_student, score_split, tasks_of, train_medical
from support.comparing.tolerances import of_capture
from support.project import Project
from support.toys.choice_questions import choice_rows
from transformers import AutoModelForCausalLM, AutoTokenizer

from orchestrator.config.schema import RunConfig
from orchestrator.preflight.checks import check
from orchestrator.reporting.evaluation import compare
from orchestrator.stages.evaluation import scoring_job
from orchestrator.stages.scoring.gathered import gathered
from workers.evaluation.harness.asked import HarnessTask, freeze_harness
from workers.evaluation.harness.looking import look
from workers.evaluation.scorer import Scorer
from workers.evaluation.tasks.asked import freeze_items
from workers.layout import StudentLayout
from workers.splits import HARNESS

MODELS = ("medical", "medical.initial", "medical.hard_labels", "teacher")
TASK = """
task: facts
dataset_path: json
dataset_kwargs: {data_files: {test: facts.jsonl}}
test_split: test
output_type: multiple_choice
doc_to_text: prompt
doc_to_choice: choices
doc_to_target: answer
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
  - {metric: acc_norm, aggregation: mean, higher_is_better: true}
"""
WRITTEN = """
task: written
dataset_path: json
dataset_kwargs: {data_files: {test: facts.jsonl}}
test_split: test
output_type: generate_until
doc_to_text: prompt
doc_to_target: "{{choices[0]}}"
generation_kwargs: {until: ["pay"], max_gen_toks: 3}
metric_list:
  - {metric: exact_match, aggregation: mean, higher_is_better: true}
"""
GREEDY = """
task: greedy
dataset_path: json
dataset_kwargs: {data_files: {test: facts.jsonl}}
test_split: test
output_type: loglikelihood
doc_to_text: prompt
doc_to_target: " high"
metric_list:
  - {metric: perplexity, aggregation: perplexity, higher_is_better: false}
  - {metric: acc, aggregation: mean, higher_is_better: true}
"""
TEXTS = """
task: texts
dataset_path: json
dataset_kwargs: {data_files: {test: facts.jsonl}}
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: prompt
metric_list:
  - {metric: word_perplexity, aggregation: weighted_perplexity, higher_is_better: false}
"""


@pytest.fixture
def asked(capture_project: Project, monkeypatch: pytest.MonkeyPatch) -> tuple[CapturedRun, Project]:
    """A captured run of which one specialist and its control are trained, and tasks beside it."""
    project = capture_project
    monkeypatch.setenv("HF_HOME", str(project.folder / "cache"))
    project.set("evaluate", {"heldout": 0.5, "bootstrap": 100, "threads": 1})
    captured = capture(project)
    train_medical(captured)
    for name, text in {"facts": TASK, "written": WRITTEN, "greedy": GREEDY, "texts": TEXTS}.items():
        project.text(f"exams/{name}.yaml", text)
    project.rows("exams/facts.jsonl", *choice_rows(30))
    return captured, project


def with_harness(captured: CapturedRun, project: Project, *tasks: str, **settings: Any) -> RunConfig:
    """The configuration with tasks, which are found in this process and noted in the run as its session does."""
    project.set("evaluate.harness", {"include_path": "exams", "tasks": list(tasks), **settings})
    config = project.load().located()
    assert config.evaluate.harness is not None
    found = look(config.evaluate.harness, run_code=False)
    freeze_harness(captured.run.storage, [HarnessTask(**task) for task in found["tasks"]])
    return config


def score_all(captured: CapturedRun, config: RunConfig) -> dict[str, int]:
    """Score what is missing; of each model that is asked some, the tasks."""
    return {name: tasks for name, tasks in score_split(captured, config, HARNESS).items() if tasks}


def by_itself(
    model: Path, tokenizer: str, folder: Path, monkeypatch: pytest.MonkeyPatch, *tasks: str, **how: Any
) -> Any:
    """What lm-evaluation-harness says of a model's folder, with its own class for it."""
    monkeypatch.chdir(folder)
    theirs = HFLM(
        pretrained=AutoModelForCausalLM.from_pretrained(model), tokenizer=AutoTokenizer.from_pretrained(tokenizer)
    )
    manager = TaskManager(include_path=str(folder), include_defaults=False)
    return simple_evaluate(model=theirs, tasks=list(tasks), task_manager=manager, bootstrap_iters=0, **how)


def test_scores_are_those_of_the_harness_and_of_our_own_tasks(
    asked: tuple[CapturedRun, Project], monkeypatch: pytest.MonkeyPatch
) -> None:
    captured, project = asked
    project.set("evaluate.tasks", {"facts": "exams/facts.jsonl"})
    found = check(project.load()).take_tasks()
    freeze_items(captured.run.storage, [unit for task in found for unit in task.units])
    names = ["facts", "written", "greedy", "texts"]
    config = with_harness(captured, project, *names)
    assert score_all(captured, config) == dict.fromkeys(MODELS, 4)
    assert score_all(captured, config) == {}, "what is kept is not asked again"
    results = gathered(captured.run, tasks_of(captured, config))
    models = {
        ("medical", ""): captured.run.storage.local_path(StudentLayout("medical").final),
        ("teacher", "teacher"): Path(config.teachers["teacher"].model),
    }
    for model, folder in models.items():
        assert folder is not None
        tokenizer = config.teachers["teacher"].model
        theirs = by_itself(folder, tokenizer, project.folder / "exams", monkeypatch, *names)
        ours = results.harness[model]
        assert {task: own.items for task, own in ours.items()} == dict.fromkeys(names, 30)
        for task, metrics in {"facts": ["acc", "acc_norm"], "written": ["exact_match"], "greedy": ["acc"]}.items():
            for metric in metrics:
                assert ours[task].metrics[metric].value == theirs["results"][task][f"{metric},none"]
                expected = [sample[metric] for sample in theirs["samples"][task]]
                assert ours[task].metrics[metric].by_item == tuple(expected)
        for task, metric in {"texts": "word_perplexity", "greedy": "perplexity"}.items():
            # The mean of log-probabilities of float32, made in two ways: off by what one of them is off.
            perplexity, expected = ours[task].metrics[metric], theirs["results"][task][f"{metric},none"]
            assert np.log(perplexity.value) == pytest.approx(np.log(expected), abs=of_capture(np.log(expected)))
            assert perplexity.by_item is None and perplexity.higher_is_better is False
        correct = [a.correct for by in (results.answers[model[0]],) for a in _in_order(by)]
        assert ours["facts"].metrics["acc"].by_item == tuple(map(float, correct))
    own = results.harness["medical", ""]
    assert 0 < own["facts"].metrics["acc"].value < 1 and 0 < own["greedy"].metrics["acc"].value < 1


def _in_order(by_domain: Any) -> list[Any]:
    """Answers of both domains in the order of the file's rows, whose uids are made of what is in them."""
    answers = {item.prompt + item.answer: answer for pairs in by_domain.values() for item, answer in pairs}
    return [answers[row["prompt"] + row["choices"][row["answer"]]] for row in choice_rows(30)]


def test_examples_are_drawn_as_the_harness_draws_them(
    asked: tuple[CapturedRun, Project], monkeypatch: pytest.MonkeyPatch
) -> None:
    captured, project = asked
    config = with_harness(captured, project, "greedy", fewshot=2, limit=20)
    score_all(captured, config)
    own = gathered(captured.run, tasks_of(captured, config)).harness["medical", ""]["greedy"]
    folder = captured.run.storage.local_path(StudentLayout("medical").final)
    assert folder is not None and (own.fewshot, own.items) == (2, 20)
    how = {"num_fewshot": 2, "limit": 20}
    tokenizer = config.teachers["teacher"].model
    theirs = by_itself(folder, tokenizer, project.folder / "exams", monkeypatch, "greedy", **how)
    expected = theirs["results"]["greedy"]["perplexity,none"]
    perplexity = own.metrics["perplexity"].value
    assert np.log(perplexity) == pytest.approx(np.log(expected), abs=of_capture(np.log(expected)))
    assert own.metrics["acc"].by_item == tuple(s["acc"] for s in theirs["samples"]["greedy"])


def test_a_task_that_fails_is_named(asked: tuple[CapturedRun, Project]) -> None:
    """A target that becomes part of the text's last word has no probability of its own."""
    captured, project = asked
    project.text("exams/greedy.yaml", GREEDY.replace('" high"', '"high"'))
    config = with_harness(captured, project, "greedy")
    with pytest.raises(ValueError, match=r"evaluate.harness.tasks: 'greedy' failed: .*'high' adds no token"):
        score_all(captured, config)


def test_the_report_has_what_is_kept_of_the_teachers_scores(asked: tuple[CapturedRun, Project]) -> None:
    captured, project = asked
    config = with_harness(captured, project, "facts", "texts", metric="acc_norm", limit=20)
    score_all(captured, config)
    found = compare(gathered(captured.run, tasks_of(captured, config)), config).harness["medical"]
    facts = found["facts"]
    assert (facts.metric, facts.n, facts.fewshot) == ("acc_norm", 20, 0)
    assert facts.retention is not None and facts.teacher.score > 0 and facts.teacher.retention is None
    assert facts.retention.value == pytest.approx(facts.score / facts.teacher.score)
    assert facts.retention.low <= facts.retention.value <= facts.retention.high
    assert facts.stderr == pytest.approx(np.sqrt(facts.score * (1 - facts.score) / 19))
    assert facts.initial is not None and facts.hard_labels is not None and facts.generalist is None
    assert found["texts"].metric == "word_perplexity" and found["texts"].retention is None


def test_a_task_that_changed_is_asked_anew_and_nothing_else(asked: tuple[CapturedRun, Project]) -> None:
    captured, project = asked
    score_all(captured, with_harness(captured, project, "facts"))
    config = with_harness(captured, project, "facts", "texts")
    assert score_all(captured, config) == dict.fromkeys(MODELS, 1)
    project.rows("exams/facts.jsonl", *choice_rows(31))
    changed = Scorer(scoring_job(captured.run, config, ""))
    for task in tasks_of(captured, config):
        for unit in (unit for unit in task.units if unit.split == HARNESS):
            captured.run.storage.delete(unit.key)
    with pytest.raises(ValueError, match=r"evaluate.harness.tasks: 'facts' is not what it was"):
        changed(next(task for task in tasks_of(captured, config) if task.model.name == "medical"))
    score_all(captured, with_harness(captured, project, "facts"))
    save_student(captured, StudentLayout("medical").initial, seed=9)
    assert score_all(captured, with_harness(captured, project, "facts")) == {"medical.initial": 1}


def test_a_group_is_its_tasks_and_its_own_score(asked: tuple[CapturedRun, Project]) -> None:
    captured, project = asked
    project.text("exams/more.yaml", TASK.replace("task: facts", "task: more").replace("test: facts", "test: more"))
    project.rows("exams/more.jsonl", *choice_rows(10))
    aggregate = [{"metric": "acc", "aggregation": "mean", "weight_by_size": True}]
    group = {"group": "both", "task": ["facts", "more"], "aggregate_metric_list": aggregate}
    project.text("exams/both.yaml", json.dumps(group))
    config = with_harness(captured, project, "both", fewshot=2)
    score_all(captured, config)
    found = compare(gathered(captured.run, tasks_of(captured, config)), config).harness["medical"]
    counts = {task: (own.n, own.fewshot) for task, own in found.items()}
    assert counts == {"both": (40, 2), "facts": (30, 2), "more": (10, 2)}
    assert found["both"].score == pytest.approx((30 * found["facts"].score + 10 * found["more"].score) / 40)
    assert found["both"].retention is None and found["facts"].retention is not None
