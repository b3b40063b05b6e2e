"""Tasks of lm-evaluation-harness: what models reach, and what specialists keep of their teacher's scores."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from orchestrator.config.schema import RunConfig
from orchestrator.config.students import GENERALIST, HARD_LABELS, INITIAL, TEACHER, harness_teachers
from orchestrator.reporting.scores import Interval, Measured, MeasuredOrNone
from workers.evaluation.harness.answers import HarnessAnswers, HarnessMetric
from workers.evaluation.metrics.retention import retention
from workers.layout import AT_CONTROL_TOKENS

AnswersOfModels = Mapping[tuple[str, str], Mapping[str, HarnessAnswers]]
"""By task, of models by their names; that of a teacher is `teacher` and its name in the settings."""


@dataclass(frozen=True, kw_only=True)
class HarnessScore:
    """What one model reaches in a task."""

    score: Measured
    """By the metric, as lm-evaluation-harness has it."""
    stderr: MeasuredOrNone
    """Its standard error, likewise; None where it has none."""
    retention: Interval | None
    """Over the teacher's, items drawn again for both. None for the teacher, and where the metric is no mean over items
    of numbers from 0 to 1 of which more is better: of a group, of a perplexity."""


@dataclass(frozen=True, kw_only=True)
class HarnessReport:
    """One task, or a group of tasks that has a score of its own: the specialist's score, and those of what it is
    measured against. What was not asked is None."""

    metric: str
    """Its name, and its filter behind a comma where it has one."""
    n: int
    """Items."""
    fewshot: int
    """Examples before each."""
    score: Measured
    stderr: MeasuredOrNone
    retention: Interval | None
    """As the scores below have them."""
    teacher: HarnessScore
    initial: HarnessScore | None
    hard_labels: HarnessScore | None
    at_control_tokens: HarnessScore | None
    """Of the specialist when it had seen as many tokens as its control."""
    generalist: HarnessScore | None


def harness_reports(config: RunConfig, answers: AnswersOfModels) -> dict[str, dict[str, HarnessReport]]:
    """By specialist, or model that was not trained here, and by task."""
    teacher_of = {name: teacher for teacher, names in harness_teachers(config).items() for name in names}
    found: dict[str, dict[str, HarnessReport]] = {}
    for name, teacher in teacher_of.items():
        columns = {"own": (name, ""), "teacher": (TEACHER, teacher), "generalist": (GENERALIST, "")}
        columns |= {what: (f"{name}.{what}", "") for what in (INITIAL, HARD_LABELS, AT_CONTROL_TOKENS)}
        own = answers.get((name, ""), {})
        for task in own:
            asked = {what: answers.get(model, {}).get(task) for what, model in columns.items()}
            metric = _metric(config, own[task])
            if metric is not None and asked["teacher"] is not None:
                found.setdefault(name, {})[task] = _report(config, metric, own[task], asked)
    return found


def _metric(config: RunConfig, answers: HarnessAnswers) -> str | None:
    """The metric that the settings name, where the task has it with some filter; else its first."""
    assert config.evaluate.harness is not None
    wanted = config.evaluate.harness.metric
    names = list(answers.metrics)
    fitting = [name for name in names if wanted is not None and wanted in (name, name.partition(",")[0])]
    return next(iter([*fitting, *names]), None)


def _report(
    config: RunConfig, metric: str, own: HarnessAnswers, asked: Mapping[str, HarnessAnswers | None]
) -> HarnessReport:
    """One task, by the answers of a specialist and of what it is measured against."""
    of_metric = {what: found.metrics[metric] for what, found in asked.items() if found and metric in found.metrics}
    teacher = of_metric["teacher"]

    def score(what: str) -> HarnessScore | None:
        if (found := of_metric.get(what)) is None:
            return None
        kept = None if what == "teacher" else _retention(config, found, teacher)
        return HarnessScore(score=found.value, stderr=found.stderr, retention=kept)

    specialist, of_teacher = score("own"), score("teacher")
    assert specialist is not None and of_teacher is not None
    return HarnessReport(
        metric=metric,
        n=own.items,
        fewshot=own.fewshot,
        score=specialist.score,
        stderr=specialist.stderr,
        retention=specialist.retention,
        teacher=of_teacher,
        initial=score(INITIAL),
        hard_labels=score(HARD_LABELS),
        at_control_tokens=score(AT_CONTROL_TOKENS),
        generalist=score(GENERALIST),
    )


def _retention(config: RunConfig, own: HarnessMetric, teacher: HarnessMetric) -> Interval | None:
    """The score over the teacher's, paired by item."""
    if own.by_item is None or teacher.by_item is None or own.higher_is_better is False:
        return None
    own_I, teacher_I = np.array(own.by_item), np.array(teacher.by_item)
    if own_I.shape != teacher_I.shape or not all(((x >= 0) & (x <= 1)).all() for x in (own_I, teacher_I)):
        return None
    return Interval.of(retention(own_I, teacher_I, config.evaluate.bootstrap, config.seed))
