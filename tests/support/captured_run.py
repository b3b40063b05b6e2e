"""A run whose targets are captured in this process, by the real engine on a tiny teacher: real stores in a second."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from orchestrator.config.schema import RunConfig
from orchestrator.preflight.checks import check
from orchestrator.prompts.freezing.freeze import freeze
from orchestrator.runs.folder import RunFolder
from orchestrator.stages.capture import answer_rules, missing_heads, open_stores, write_heads
from orchestrator.stages.evaluation import scoring_job
from orchestrator.stages.scoring.models import models_to_score
from orchestrator.stages.scoring.tasks import all_tasks, missing_tasks
from support.commit_processes import entry_of
from support.project import STUDENT, Project
from workers.evaluation.job import ScoringTask
from workers.evaluation.scorer import Scorer
from workers.layout import StudentLayout
from workers.manifest import Manifest, read_plan
from workers.targets.commits.log import Entry
from workers.targets.encoding.arrays import UnitTargets
from workers.targets.store import TargetStore
from workers.teacher.engine import CaptureSpec
from workers.teacher.engines.transformers_engine import TransformersEngine
from workers.teacher.units.answers import AnswerSelection
from workers.teacher.units.unit_runner import requests_for

Command = Callable[..., Any]
RUN = "trial"
"""The name of a run that `capture` makes."""


@dataclass
class CapturedRun:
    """A run folder with its prompts frozen, its stores open and some units captured."""

    run: RunFolder

    def store(self, split: str = "train") -> TargetStore:
        return TargetStore(self.run.storage, split)

    def entries(self, split: str = "train") -> list[Entry]:
        return self.store(split).log.entries()

    def part(self, unit: int, split: str = "train") -> Path:
        """The file of a unit's one part."""
        entry = self.store(split).log.entry(unit)
        assert entry is not None
        path = self.run.storage.local_path(entry.parts[0].key)
        assert path is not None
        return path

    def log_entry(self, unit: int, split: str = "train") -> Path:
        """The file of a unit's entry."""
        path = self.run.storage.local_path(f"targets/{split}/log/g0000/{unit:08d}.json")
        assert path is not None
        return path

    def targets(self, unit: int, split: str = "train") -> UnitTargets:
        entry = self.store(split).log.entry(unit)
        assert entry is not None
        return self.store(split).read_unit(entry)

    def recommit(self, unit: int, targets: UnitTargets, split: str = "train", store: TargetStore | None = None) -> None:
        """Put other targets in the place of a unit's, with checksums that are right."""
        entry = entry_of(store or self.store(split), unit, targets)
        self.log_entry(unit, split).unlink()
        assert self.store(split).log.commit(entry)


def give_weights(folder: Path) -> None:
    """Random weights for a model folder that has a configuration, wide enough that its distributions differ."""
    torch.manual_seed(0)
    config = AutoConfig.from_pretrained(folder, initializer_range=0.5)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)


def capture(project: Project, *, units: dict[str, int] | None = None) -> CapturedRun:
    """Freeze the prompts of a project and capture its units in plan order: all, or so many of a split."""
    file = project.load()
    config = file.located()
    run = RunFolder.of(config)
    run.open(file)
    summary = freeze(config, run.uri)
    open_stores(run, config, check(file).tokenizer, summary["vocabulary"])
    write_heads(run.uri, config, missing_heads(run, config))
    engine = TransformersEngine(config.teachers["teacher"])
    select = AnswerSelection(answer_rules(run, config, "teacher"))
    for split in summary["splits"]:
        store, manifest = TargetStore(run.storage, split), Manifest(run.storage, split)
        for unit in read_plan(run.storage, split).units[: (units or {}).get(split)]:
            prompts = manifest.prompts(unit.index)
            targets = engine.run(requests_for(prompts), CaptureSpec.of(store.header, prompts[0].domains))
            targets, aside = select(targets, prompts) if split == "train" else (targets, [])
            store.log.commit(entry_of(store, unit.index, targets, rejected=tuple(aside)))
    return CapturedRun(run)


def found(stillhouse: Command, *words: str, code: int = 0) -> dict[str, Any]:
    """What a command prints with --json."""
    outcome = stillhouse("targets", *words, "--json")
    assert outcome.code == code, outcome.err
    result: dict[str, Any] = json.loads(outcome.out)
    return result


def save_student(captured: CapturedRun, key: str, seed: int) -> None:
    """A student's weights, wide enough that its distributions differ."""
    torch.manual_seed(seed)
    config = AutoConfig.for_model(**STUDENT, vocab_size=12, initializer_range=0.5)
    folder = captured.run.storage.local_path(key)
    assert folder is not None
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)


def train_medical(captured: CapturedRun) -> None:
    """The medical specialist and its control of hard labels, as if they were trained."""
    medical, control = StudentLayout("medical"), StudentLayout("medical.hard_labels")
    for seed, key in enumerate((medical.initial, medical.final, control.final)):
        save_student(captured, key, seed)
    for student in (medical, control):
        captured.run.storage.write(student.done, b"{}")


def score_split(captured: CapturedRun, config: RunConfig, split: str) -> dict[str, int]:
    """Score what is missing; of each model that had some, how many pieces of a split."""
    scorer, counts = Scorer(scoring_job(captured.run, config, "")), dict[str, int]()
    for task in missing_tasks(captured.run, tasks_of(captured, config), 1):
        pieces = sum(unit.split == split for unit in task.units)
        counts[task.model.name] = counts.get(task.model.name, 0) + pieces  # of both rounds
        scorer(task)
    return counts


def tasks_of(captured: CapturedRun, config: RunConfig) -> list[ScoringTask]:
    return all_tasks(captured.run, config, models_to_score(captured.run, config))
