"""An evaluation's memory against the size of its store, and its time with one process and with two.

A store of hidden states of 1, 4 and 16 times as many units, each with the same texts under other names; and two models
to score on it, the teacher with half of its layers and with a quarter. Peaks are of a process of its own that scores
both models, seconds are of what `stillhouse evaluate` starts, processes included, each with one thread.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from cluster.storage import LocalStorage
from workers.evaluation.job import ModelToScore, ScoringJob, ScoringTask, UnitToScore
from workers.layout import StudentLayout, score_key
from workers.manifest import write_manifest
from workers.splits import HELDOUT
from workers.targets.commits.log import Entry
from workers.targets.encoding.arrays import UnitTargets
from workers.targets.encoding.schema import StoreHeader
from workers.targets.heads import head_of_folder
from workers.targets.store import TargetStore
from workers.teacher.config import TeacherConfig
from workers.teacher.engine import CaptureSpec, TextRequest
from workers.teacher.engines.transformers_engine import TransformersEngine
from workers.units import Prompt, Unit, UnitPlan

TIMES = (1, 4, 16)
NAMES = ("half", "quarter")


def measure(model: Path, vocabulary: int, texts: Sequence[TextRequest], units: int) -> dict[str, float]:
    """Peak megabytes by the size of the store (the smallest has so many units), and seconds by processes."""
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        prepared = _captured(model, vocabulary, texts)
        for times in TIMES:
            run = Path(folder, f"{times}x")
            _fill(run, model, vocabulary, prepared, units * times)
            found[f"evaluator_peak_mb_{times}x"] = _peak(run)
        for workers in (1, 2):
            _forget(run)
            found[f"evaluate_s_{workers}_actor{'s' * (workers > 1)}"] = _seconds(run, workers)
    return found


def _captured(model: Path, vocabulary: int, texts: Sequence[TextRequest]) -> tuple[StoreHeader, UnitTargets]:
    header = StoreHeader("hidden", 1, "answer", "float32", vocabulary, "", "", 0)
    engine = TransformersEngine(TeacherConfig(model=str(model), dtype="float32"))
    return header, engine.run(list(texts), CaptureSpec.of(header, ()))


def _fill(run: Path, model: Path, vocabulary: int, prepared: tuple[StoreHeader, UnitTargets], units: int) -> None:
    """A run's folder with a held-out store and two models."""
    from transformers import AutoModelForCausalLM

    header, targets = prepared
    storage = LocalStorage(run)
    store = TargetStore(storage, HELDOUT)
    store.create(header)
    storage.write(store.head_key("teacher"), head_of_folder(model, "float32", vocabulary).to_bytes())
    blocks = []
    for unit in range(units):
        own = replace(targets, prompt_uids=[f"{unit}-{uid}" for uid in targets.prompt_uids])
        entry = Entry.of(
            unit, store.write_part(unit, own), own, teacher="teacher", teacher_fingerprint="", epoch=1, started=0.0,
            finished=0.0,
        )  # fmt: skip
        assert store.log.commit(entry)
        blocks.append([Prompt(uid, ("all",), "teacher", 1, 1.0, 1.0, 1, [0], None) for uid in own.prompt_uids])
    planned = tuple(Unit(u, ("all",), "teacher", targets.rows, 1, True) for u in range(units))
    write_manifest(storage, UnitPlan(HELDOUT, planned), blocks)
    for name, share in zip(NAMES, (2, 4), strict=True):
        student = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
        layers = student.get_decoder().layers
        del layers[max(1, len(layers) // share) :]
        student.config.num_hidden_layers = len(layers)
        if getattr(student.config, "layer_types", None):
            student.config.layer_types = student.config.layer_types[: len(layers)]
        student.save_pretrained(run / StudentLayout(name).final)


def tasks_of(run: Path) -> list[ScoringTask]:
    """Both models on all units."""
    units = sorted(entry.unit for entry in TargetStore(LocalStorage(run), HELDOUT).log.entries())
    return [
        ScoringTask(
            ModelToScore(name, "stored", StudentLayout(name).final, ("all",)),
            tuple(UnitToScore(HELDOUT, u, score_key(name, HELDOUT, u, "0")) for u in units),
        )
        for name in NAMES
    ]


def job_of(run: Path) -> ScoringJob:
    return ScoringJob(str(run), None, 4096, 1, "cpu", "")


def _forget(run: Path) -> None:
    storage = LocalStorage(run)
    for scored in storage.listing("scores"):
        storage.delete(scored.key)


def _peak(run: Path) -> float:
    """Megabytes that a process of its own comes to."""
    here, root = Path(__file__).resolve().parents[1], Path(__file__).resolve().parents[3]
    paths = os.pathsep.join([str(root), str(here)])
    command = [sys.executable, "-m", "exact_bench.evaluating", str(run)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, env=os.environ | {"PYTHONPATH": paths})
    return float(json.loads(done.stdout.splitlines()[-1]))


def _seconds(run: Path, workers: int) -> float:
    """Of an evaluation in a Ray that runs already."""
    import ray

    from orchestrator.runs.folder import RunFolder
    from orchestrator.stages.evaluation import begin
    from orchestrator.stages.scoring.tasks import missing_tasks
    from workers.evaluation.config import EvaluateConfig

    paths = os.pathsep.join(p for p in sys.path if p)
    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        runtime_env={"env_vars": {"PYTHONPATH": paths}},
    )
    try:
        settings, tasks = EvaluateConfig(workers=workers, threads=1), tasks_of(run)
        pieces = missing_tasks(RunFolder(str(run)), tasks, workers)
        began = time.monotonic()
        assert ray.get(begin(job_of(run), pieces, settings)) == sum(len(t.units) for t in tasks)
        return round(time.monotonic() - began, 1)
    finally:
        ray.shutdown()


def main() -> None:
    """Score all of a run's folder; print the peak in megabytes."""
    from workers.evaluation.scorer import Scorer

    run = Path(sys.argv[1])
    scorer = Scorer(job_of(run))
    assert all(scorer(task) == len(task.units) for task in tasks_of(run))
    print(round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1))


if __name__ == "__main__":
    main()
