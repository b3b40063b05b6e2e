"""Measuring specialists and what stands beside them on the held-out store, and comparing them pairwise."""

from __future__ import annotations

from dataclasses import dataclass

import ray

from orchestrator.config import RunConfig
from orchestrator.errors import RunFailed
from orchestrator.run_folder import RunFolder
from orchestrator.students import GENERALIST, HARD_LABELS
from workers.evaluation.job import EvaluationJob, ModelToScore, Results
from workers.evaluation.metrics import paired_difference, summarise
from workers.manifest import read_plan
from workers.splits import HELDOUT
from workers.targets.damage import DamagedShard

ERODED = "eroded"


@dataclass
class Evaluation:
    """Scores by model and domain, paired differences to the controls, ranks of probes."""

    scores: dict[str, dict[str, dict[str, float]]]
    differences: dict[str, dict[str, float]]
    probes: dict[str, dict[str, list[dict[str, float]]]]
    unigram: dict[str, float]


def models_to_score(run: RunFolder, config: RunConfig) -> list[ModelToScore]:
    """Every trained specialist on every held-out domain; what stands beside it on its own domain."""
    domains = tuple(read_plan(run.storage, HELDOUT).domains)
    models = []
    for name in config.specialists:
        if run.student_done(name) is None:
            continue
        own = (config.own_domain(name),) if config.own_domain(name) in domains else ()
        models.append(ModelToScore(name, "stored", f"students/{name}/final", domains))
        if "initial" in config.evaluate.against:
            models.append(ModelToScore(f"{name}.initial", "stored", f"students/{name}/initial", own))
        if run.student_done(f"{name}.{HARD_LABELS}") is not None:
            models.append(ModelToScore(f"{name}.{HARD_LABELS}", "stored", f"students/{name}.{HARD_LABELS}/final", own))
    if run.student_done(GENERALIST) is not None:
        models.append(ModelToScore(GENERALIST, "stored", f"students/{GENERALIST}/final", domains))
    if ERODED in config.evaluate.against:
        models.append(ModelToScore(ERODED, ERODED, config.teachers[config.first_teacher()].model, domains))
    return models


def evaluate(run: RunFolder, config: RunConfig, board: str) -> Evaluation:
    """Score all models in one evaluator process.

    Raises ValueError if held-out units are not taught yet, RunFailed if one is damaged.
    """
    settings = config.evaluate
    job = EvaluationJob(
        run_uri=run.uri,
        models=tuple(models_to_score(run, config)),
        truth=settings.truth,
        batch_tokens=settings.batch_tokens,
        threads=settings.threads,
        device="cuda" if settings.gpus else "cpu",
        progress=board,
    )
    task = ray.remote(_score).options(num_cpus=settings.cpus, num_gpus=settings.gpus, max_retries=0)
    try:
        results = ray.get(task.remote(job))
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, DamagedShard):
            raise RunFailed(f"evaluate: {error.cause}") from None
        raise error.as_instanceof_cause() from None
    return _compare(results, config)


def _score(job: EvaluationJob) -> Results:
    """Runs in the evaluator's process: torch is loaded there, not in the driver."""
    from workers.evaluation.evaluator import score_models

    return score_models(job)


def _compare(results: Results, config: RunConfig) -> Evaluation:
    resamples, seed = config.evaluate.bootstrap, config.seed
    scores = {n: {d: summarise(s, resamples, seed) for d, s in by.items()} for n, by in results.scores.items()}
    differences = {}
    for name in config.specialists:
        own = config.own_domain(name)
        for other in (f"{name}.{HARD_LABELS}", GENERALIST):
            pair = results.scores.get(name, {}).get(own), results.scores.get(other, {}).get(own)
            if pair[0] is not None and pair[1] is not None:
                label = f"{name} - {other.removeprefix(name + '.')}"
                differences[label] = paired_difference(pair[0], pair[1], resamples, seed)
    return Evaluation(scores, differences, results.probes, results.unigram)
