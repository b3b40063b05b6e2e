"""Measuring specialists and what stands beside them on the held-out store, and comparing them pairwise."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import ray

from cluster.placement import beside_driver
from orchestrator.config.schema import RunConfig
from orchestrator.reporting.evaluation import Evaluation, compare
from orchestrator.runs.context import RunContext
from orchestrator.runs.errors import RunFailed
from orchestrator.runs.folder import RunFolder
from orchestrator.stages.ray_data import quieten, restarted
from orchestrator.stages.scoring.gathered import gathered
from orchestrator.stages.scoring.models import models_to_score
from orchestrator.stages.scoring.tasks import all_tasks, missing_tasks
from workers.channels.events import EvaluationStarted
from workers.evaluation.config import EvaluateConfig
from workers.evaluation.harness.asked import harness_asked
from workers.evaluation.job import ScoringJob, ScoringTask
from workers.failures import first_cause
from workers.layout import PROMPTS_SUMMARY

_RETRIES = 2
"""Times that a process that died is started again; what it scored is committed."""

_DIED = (ray.exceptions.WorkerCrashedError, ray.exceptions.OutOfMemoryError, ray.exceptions.ActorDiedError)


class Evaluations:
    """The scores of all models of a run: made where they are missing, then gathered."""

    def __init__(self, ctx: RunContext) -> None:
        """Raises ValueError if held-out units are not captured yet."""
        self._run, self._config = ctx.run, ctx.config
        settings = ctx.config.evaluate
        self._tasks = all_tasks(ctx.run, ctx.config, models_to_score(ctx.run, ctx.config))
        missing = missing_tasks(ctx.run, self._tasks, settings.workers)
        planned, left = (sum(len(t.units) for t in tasks) for tasks in (self._tasks, missing))
        if left < planned:
            ctx.say(f"evaluate: {planned - left} of {planned} pairs of model and unit are scored already")
        ctx.report(EvaluationStarted(units=planned, scored=planned - left))
        job = scoring_job(ctx.run, ctx.config, ctx.board)
        self.call: Any = begin(job, missing, settings) if missing else ray.put(0)
        """Ends when no score is missing, or with an error."""

    def finish(self) -> Evaluation:
        """The scores, when `call` is done. Raises RunFailed if they could not be made."""
        try:
            ray.get(self.call)
        except ray.exceptions.RayError as error:
            raise RunFailed(f"evaluate: {_why(error)}") from None
        return compare(gathered(self._run, self._tasks), self._config)


def scoring_job(run: RunFolder, config: RunConfig, board: str) -> ScoringJob:
    """What is the same for all tasks of an evaluation."""
    settings, teacher = config.evaluate, config.teachers[config.first_teacher()]
    summary = run.read_json(PROMPTS_SUMMARY) or {}
    return ScoringJob(
        run_uri=run.uri,
        truth=settings.truth,
        batch_tokens=settings.batch_tokens,
        threads=settings.threads,
        device="cuda" if settings.gpus else "cpu",
        board=board,
        own_text=(settings.own_text.texts, settings.own_text.max_new_tokens) if settings.own_text else (0, 0),
        bridges=settings.bridges,
        seed=config.seed,
        speed=(settings.cost.batch, settings.cost.new_tokens),
        tokenizer=teacher.model,
        tokenizer_revision=teacher.revision,
        trust_remote_code=teacher.trust_remote_code,
        stop_ids=tuple(sorted({i for ids in summary.get("stop_ids", {}).values() for i in ids})),
        harness=settings.harness,
        harness_digests=tuple((task.name, task.digest) for task in harness_asked(run.storage)),
        run_code=settings.run_code,
        resamples=settings.bootstrap,
    )


def begin(job: ScoringJob, tasks: Sequence[ScoringTask], settings: EvaluateConfig) -> Any:
    """A call that scores tasks, in one process or in several."""
    if settings.workers == 1 or len(tasks) == 1:
        alone = ray.remote(_score_all).options(**_place(settings), max_retries=_RETRIES)
        return alone.remote(job, tasks)
    pool = ray.remote(_score_in_pool).options(num_cpus=0, max_retries=0, scheduling_strategy=beside_driver())
    return pool.remote(job, tasks, settings)


def _place(settings: EvaluateConfig) -> dict[str, Any]:
    """What a process that scores asks of its node, as Ray's options."""
    labels = {"label_selector": settings.label_selector} if settings.label_selector else {}
    return {"num_cpus": settings.cpus, "num_gpus": settings.gpus, **labels}


def _score_all(job: ScoringJob, tasks: Sequence[ScoringTask]) -> int:
    """Runs in the evaluator's process: torch is loaded there, not in the driver."""
    from workers.evaluation.scorer import Scorer

    scorer = Scorer(job)
    return sum(scorer(task) for task in sorted(tasks, key=lambda task: task.after))


class _PoolScorer:
    """One process of a pool, which Ray Data gives one task at a time."""

    def __init__(self, job: ScoringJob, tasks: Sequence[ScoringTask]) -> None:
        from workers.evaluation.scorer import Scorer

        self._scorer, self._tasks = Scorer(job), tasks

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        return {"scored": self._scorer(self._tasks[row["task"]])}


def _score_in_pool(job: ScoringJob, tasks: Sequence[ScoringTask], settings: EvaluateConfig) -> int:
    """Runs in a process of its own, so that the driver need not load Ray Data."""
    rounds = [[task for task in tasks if task.after == after] for after in (False, True)]
    return sum(_score_round(job, some, settings) for some in rounds if some)


def _score_round(job: ScoringJob, tasks: Sequence[ScoringTask], settings: EvaluateConfig) -> int:
    """Tasks of which none needs what another one leaves."""
    import ray.data

    quieten()
    workers = min(settings.workers, len(tasks))
    # Items and no range: that would be read by tasks, which find no place beside processes that take all of a cluster.
    numbers = ray.data.from_items([{"task": i} for i in range(len(tasks))], override_num_blocks=len(tasks))
    scored = numbers.map(
        _PoolScorer,
        fn_constructor_args=[job, tasks],
        **_place(settings),
        ray_remote_args_fn=partial(restarted, _RETRIES),
        # One task at a time: one that is queued behind another could be done by an idle process.
        compute=ray.data.ActorPoolStrategy(size=workers, max_tasks_in_flight_per_actor=1),
    )
    scored.set_name("evaluate")
    return sum(row["scored"] for row in scored.iter_rows())


def _why(error: BaseException) -> str:
    """Why scores could not be made, and what to do."""
    if any(isinstance(e, _DIED) for e in _chain(error)):
        return (
            f"a process that scores died {_RETRIES + 1} times, most often of too little memory: take a smaller "
            "evaluate.batch_tokens, leave out what loads the teacher (evaluate.tasks, harness, own_text, cost.teacher, "
            "teacher_4bit), or take more memory (see `stillhouse plan`). What is scored is kept: the same command goes "
            "on there"
        )
    return re.sub(r"^(ValueError|DamagedShard): (evaluate: )?", "", first_cause(error))


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error and what it follows from, innermost last."""
    following: BaseException | None = error
    while following is not None:
        yield following
        inner = getattr(following, "cause", None) or following.__cause__
        following = inner if inner is not following else None
