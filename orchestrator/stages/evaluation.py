"""Measuring specialists and what stands beside them on the held-out store, and comparing them pairwise."""

from __future__ import annotations

from typing import Any

import ray

from orchestrator.config.schema import RunConfig
from orchestrator.config.students import GENERALIST, HARD_LABELS, INITIAL, SINGLE_EXPERT
from orchestrator.reporting.evaluation import Evaluation, compare
from orchestrator.runs.context import RunContext
from orchestrator.runs.errors import RunFailed
from orchestrator.runs.folder import RunFolder
from workers.evaluation.job import EvaluationJob, ModelToScore, Results
from workers.layout import StudentLayout
from workers.manifest import read_plan
from workers.splits import HELDOUT
from workers.targets.commits.damage import DamagedShard


def models_to_score(run: RunFolder, config: RunConfig) -> list[ModelToScore]:
    """Every trained specialist on every held-out domain; what stands beside it on its own domain."""
    domains = tuple(read_plan(run.storage, HELDOUT).domains)
    models = []
    for name in config.specialists:
        if run.student_done(name) is None:
            continue
        own = (config.own_domain(name),) if config.own_domain(name) in domains else ()
        models.append(ModelToScore(name, "stored", StudentLayout(name).final, domains))
        if INITIAL in config.evaluate.baselines:
            models.append(ModelToScore(f"{name}.{INITIAL}", "stored", StudentLayout(name).initial, own))
        if run.student_done(f"{name}.{HARD_LABELS}") is not None:
            models.append(
                ModelToScore(f"{name}.{HARD_LABELS}", "stored", StudentLayout(f"{name}.{HARD_LABELS}").final, own)
            )
    if run.student_done(GENERALIST) is not None:
        models.append(ModelToScore(GENERALIST, "stored", StudentLayout(GENERALIST).final, domains))
    if SINGLE_EXPERT in config.evaluate.baselines:
        teacher = config.teachers[config.first_teacher()]
        models.append(ModelToScore(SINGLE_EXPERT, SINGLE_EXPERT, teacher.model, domains, teacher.revision))
    return models


def start(ctx: RunContext) -> Any:
    """Begin to score all models in one evaluator process; returns its call, for `finish`."""
    settings = ctx.config.evaluate
    job = EvaluationJob(
        run_uri=ctx.run.uri,
        models=tuple(models_to_score(ctx.run, ctx.config)),
        truth=settings.truth,
        batch_tokens=settings.batch_tokens,
        threads=settings.threads,
        device="cuda" if settings.gpus else "cpu",
        board=ctx.board,
    )
    task = ray.remote(_score).options(num_cpus=settings.cpus, num_gpus=settings.gpus, max_retries=0)
    return task.remote(job)


def finish(ctx: RunContext, call: Any) -> Evaluation:
    """The scores, when the evaluator is done.

    Raises ValueError if held-out units are not captured yet, RunFailed if one is damaged.
    """
    try:
        results = ray.get(call)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, DamagedShard):
            raise RunFailed(f"evaluate: {error.cause}") from None
        raise error.as_instanceof_cause() from None
    return compare(results, ctx.config)


def _score(job: EvaluationJob) -> Results:
    """Runs in the evaluator's process: torch is loaded there, not in the driver."""
    from workers.evaluation.evaluator import score_models

    return score_models(job)
