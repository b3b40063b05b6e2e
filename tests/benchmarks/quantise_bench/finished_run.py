"""A finished run, of which specialists are put on a lattice: a copy of what that needs, its students, their scores."""

from __future__ import annotations

import os
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from orchestrator.config.schema import RunConfig
from orchestrator.config.students import PTQ, QUANTISED, Student, initial_key, student_groups
from orchestrator.runs.folder import RunFolder
from orchestrator.stages.evaluation import scoring_job
from orchestrator.stages.scoring.models import models_to_score
from orchestrator.stages.scoring.tasks import all_tasks
from workers.evaluation.heldout.sums import from_bytes
from workers.evaluation.job import ModelToScore
from workers.evaluation.metrics.domain_scores import DomainScores, by_domain
from workers.layout import StudentLayout
from workers.quantise.config import QuantisedConfig
from workers.splits import HELDOUT, TRAIN
from workers.student.training.job import SpecialistJob
from workers.targets.contract import Contract
from workers.targets.store import TargetStore

os.environ.setdefault("DS_ACCELERATOR", "cpu")


class FinishedRun:
    """A copy of a run, in a folder of its own, in which quantised siblings of a specialist are trained and scored."""

    def __init__(self, source: Path, folder: Path, specialist: str, seed: int | None = None) -> None:
        there = ["config.resolved.yaml", "environment.json", "prompts", "targets"]
        there += [f"students/{specialist}/{part}" for part in ("initial", "final", "done.json", "initial.json")]
        for name in there:
            if (source / name).is_dir():
                shutil.copytree(source / name, folder / name)
            elif (source / name).exists():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(source / name, folder / name)
        self.run = RunFolder(str(folder))
        config = self.run.located_config()
        self.seed = config.seed if seed is None else seed
        """Of its trainings. One that is not the run's own is for the order of texts and what is drawn from them; the
        store, and the weights that a specialist starts from, stay the run's."""
        self._config, self._name = config.model_copy(update={"seed": self.seed}), specialist
        if self.seed != config.seed:
            self.train(student_groups(self.config(None))[0][0])

    def config(self, settings: QuantisedConfig | None) -> RunConfig:
        """Its configuration, in which the specialist has a quantised sibling, if settings of one are given, and nothing
        but the KL is measured."""
        config, name = self._config, self._name
        specialists = {name: config.specialists[name].model_copy(update={"quantised": settings})}
        few = {"baselines": [], "tasks": None, "floor": None, "own_text": None, "truth": None, "probes": None}
        evaluate = config.evaluate.model_copy(update=few)
        return config.model_copy(update={"specialists": specialists, "evaluate": evaluate})

    def sibling(self, settings: QuantisedConfig) -> Student:
        """The student that goes on from the specialist."""
        return student_groups(self.config(settings))[0][-1]

    def train(self, student: Student) -> dict[str, Any]:
        """Train it in this process, a process group of one; what it left."""
        from workers.student.training.train_loop import train_specialist

        layout = StudentLayout(student.name)
        kept = (layout.initial, layout.initial_facts)
        for file in self.run.storage.listing(layout.root):
            if not file.key.startswith(kept):
                self.run.storage.delete(file.key)
        job = SpecialistJob(
            name=student.name,
            run_uri=self.run.uri,
            initial=initial_key(student),
            mix=student.mix,
            loss=student.config.loss.model_dump(),
            texts=student.config.texts.model_dump(),
            train={**student.config.train.model_dump(), "zero": "auto"},
            seed=self.seed,
            declared=Contract.of(TargetStore(self.run.storage, TRAIN).header),
            epoch=1,
            board="",
        )
        train_specialist(SpecialistJob.from_fields(asdict(job)))
        return self.run.student_done(student.name) or {}

    def scores(self, settings: QuantisedConfig) -> dict[str, DomainScores]:
        """Of the specialist, of itself rounded, of its sibling and of that rounded, on its own held-out texts."""
        from workers.evaluation.scorer import Scorer

        config = self.config(settings)
        own = (config.own_domain(self._name),)
        few: dict[str, Any] = {"domains": own, "timed": False, "task_domains": (), "writes": ""}
        models = {m.name: replace(m, **few) for m in self._models(config)}
        sibling = models[f"{self._name}.{QUANTISED}"]
        rounded = replace(sibling, name=f"{sibling.name}.{PTQ}", kind="ptq", rounding=settings.rounding())
        scorer, found = Scorer(scoring_job(self.run, config, "")), {}
        for task in all_tasks(self.run, config, [*models.values(), rounded]):
            units = tuple(unit for unit in task.units if unit.split == HELDOUT)
            scorer(replace(task, units=units))
            if sums := [from_bytes(self.run.storage.read(unit.key)) for unit in units]:
                found[task.model.name] = by_domain(sums)[own[0]]
        return found

    def _models(self, config: RunConfig) -> list[ModelToScore]:
        return [m for m in models_to_score(self.run, config) if m.name.split(".")[0] == self._name]
