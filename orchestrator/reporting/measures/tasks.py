"""What models made of tasks: scores, what specialists keep of their teacher's, and whether that passes the gate.

Legend: I items.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from orchestrator.config.schema import RunConfig
from orchestrator.config.students import (
    GENERALIST,
    GIVEN_ANSWERS,
    HARD_LABELS,
    INITIAL,
    PTQ,
    QUANTISED,
    TEACHER,
    TEACHER_4BIT,
    measured_domains,
)
from orchestrator.reporting.scores import Interval, Measured
from workers.evaluation.metrics.resampling import bootstrap_interval
from workers.evaluation.metrics.retention import corrected_retention, recovery, retention, task_score
from workers.evaluation.tasks.items import TaskAnswer, TaskItem
from workers.layout import AT_CONTROL_TOKENS

Answered = tuple[TaskItem, TaskAnswer]
"""An item, and what one model made of it."""

Answers = Mapping[str, Mapping[str, Sequence[Answered]]]
"""By model and domain."""


@dataclass(frozen=True, kw_only=True)
class TaskScore:
    """What one model did on the items of one domain."""

    score: Interval
    """Share of right answers."""
    retention: Interval | None
    """Its score over its teacher's; None for the teacher."""
    corrected_retention: Interval | None
    """The same, each less what guessing gives."""
    recovery: Interval | None
    """The same, each less the score of the initial weights; None where these are not measured, or are itself."""
    overconfidence: Interval | None
    """Of items with choices, the mean probability of the choice that it takes less how often that is right; None where
    there are none."""


@dataclass(frozen=True, kw_only=True)
class FormatReport:
    """Share of written texts that have the format of their task, whether or not they are right."""

    items: int
    """Items whose task has a format and that are written."""
    teacher: Interval
    specialist: Interval
    hard_labels: Interval | None
    """None of what was not asked, as below."""
    initial: Interval | None


@dataclass(frozen=True, kw_only=True)
class TaskReport:
    """The items of one domain, and how a specialist and what stands beside it answer them. What was not asked is
    None."""

    tasks: tuple[str, ...]
    """That the items are of."""
    items: int
    chance: float
    """What guessing gives: the mean of one over the choices; 0 for items without choices."""
    teacher: TaskScore
    specialist: TaskScore
    initial: TaskScore | None
    hard_labels: TaskScore | None
    given_answers: TaskScore | None = None
    at_control_tokens: TaskScore | None
    """Of the specialist when it had seen as many tokens as its controls."""
    generalist: TaskScore | None
    teacher_4bit: TaskScore | None = None
    ptq: TaskScore | None = None
    """Of the specialist with its weights rounded."""
    quantised: TaskScore | None = None
    """Of its quantised sibling."""
    format: FormatReport | None = None
    """None where no task has one."""


@dataclass(frozen=True, kw_only=True)
class GateReport:
    """Whether a specialist keeps enough of its teacher's scores, in each domain of its mix that has items."""

    passed: bool
    domain: str
    """Where its lower bound is the lowest."""
    threshold: float
    """What the lower bounds must reach."""
    retention: Measured
    """Its score over its teacher's there."""
    retention_low: Measured
    """Lower end of the 95 % interval of that."""


def task_reports(config: RunConfig, answers: Answers) -> dict[str, dict[str, TaskReport]]:
    """By specialist and domain, the items that it was asked."""
    teacher, found = answers.get(TEACHER, {}), {}
    for name in (*config.specialists, *config.evaluate.models):
        domains = [d for d in answers.get(name, {}) if d in teacher]
        if domains:
            found[name] = {
                d: _report(config, name, {m: by[d] for m, by in answers.items() if d in by}) for d in domains
            }
    return found


def gate_report(config: RunConfig, name: str, reports: Mapping[str, TaskReport]) -> GateReport | None:
    """Whether a specialist, or another model that was measured, passes the gate; None where there is none, or it was
    asked nothing of its domains."""
    mix = measured_domains(config, list(reports))[name]
    kept = {d: r.specialist.retention for d, r in reports.items() if d in mix and r.specialist.retention is not None}
    if config.evaluate.gate is None or not kept:
        return None
    domain = min(kept, key=lambda d: -math.inf if math.isnan(kept[d].low) else kept[d].low)
    worst, threshold = kept[domain], config.evaluate.gate.retention
    passed = worst.low >= threshold  # NaN, of which nothing is known, passes nothing
    return GateReport(passed=passed, domain=domain, threshold=threshold, retention=worst.value, retention_low=worst.low)


def _report(config: RunConfig, name: str, answers: Mapping[str, Sequence[Answered]]) -> TaskReport:
    """One domain, by the answers of models to its items."""
    items = [item for item, _ in answers[TEACHER] if item.variant_of is None]
    keys = [(item.task, item.uid) for item in items]
    chance_I = np.array([1 / len(item.choices) if item.choices else 0.0 for item in items])
    correct = {model: _correct(own, keys) for model, own in answers.items()}
    surer = {model: _surer_than_right(own, keys) for model, own in answers.items()}
    resamples, seed = config.evaluate.bootstrap, config.seed
    initial = f"{name}.{INITIAL}"

    def score(model: str) -> TaskScore | None:
        if model not in correct:
            return None
        own_I, teacher_I = correct[model], correct[TEACHER]
        begins = None if model == initial else correct.get(initial)
        return TaskScore(
            score=Interval.of(task_score(own_I, resamples, seed)),
            retention=Interval.of(retention(own_I, teacher_I, resamples, seed)),
            corrected_retention=Interval.of(corrected_retention(own_I, teacher_I, chance_I, resamples, seed)),
            recovery=None if begins is None else Interval.of(recovery(own_I, teacher_I, begins, resamples, seed)),
            overconfidence=_mean(surer[model], resamples, seed),
        )

    specialist = score(name)
    assert specialist is not None
    return TaskReport(
        tasks=tuple(dict.fromkeys(item.task for item in items)),
        items=len(items),
        chance=float(chance_I.mean()),
        teacher=TaskScore(
            score=Interval.of(task_score(correct[TEACHER], resamples, seed)),
            retention=None,
            corrected_retention=None,
            recovery=None,
            overconfidence=_mean(surer[TEACHER], resamples, seed),
        ),
        specialist=specialist,
        initial=score(initial),
        hard_labels=score(f"{name}.{HARD_LABELS}"),
        given_answers=score(f"{name}.{GIVEN_ANSWERS}"),
        at_control_tokens=score(f"{name}.{AT_CONTROL_TOKENS}"),
        generalist=score(GENERALIST),
        teacher_4bit=score(TEACHER_4BIT),
        ptq=score(f"{name}.{PTQ}"),
        quantised=score(f"{name}.{QUANTISED}"),
        format=_format(config, name, answers),
    )


def _format(config: RunConfig, name: str, answers: Mapping[str, Sequence[Answered]]) -> FormatReport | None:
    """How often the given items are answered in their format."""
    formed = {
        (item.task, item.uid)
        for item, answer in answers[TEACHER]
        if item.variant_of is None and answer.follows_format is not None
    }
    if not formed:
        return None

    def share(model: str) -> Interval | None:
        own = [bool(a.follows_format) for item, a in answers.get(model, ()) if (item.task, item.uid) in formed]
        resamples = config.evaluate.bootstrap
        return Interval.of(task_score(np.array(own, np.float64), resamples, config.seed)) if own else None

    teacher, specialist = share(TEACHER), share(name)
    assert teacher is not None and specialist is not None
    return FormatReport(
        items=len(formed),
        teacher=teacher,
        specialist=specialist,
        hard_labels=share(f"{name}.{HARD_LABELS}"),
        initial=share(f"{name}.{INITIAL}"),
    )


def _correct(answers: Sequence[Answered], keys: Sequence[tuple[str, str]]) -> np.ndarray:
    """Whether a model's answers are right [I], in the order of the items that `keys` name."""
    right = {(item.task, item.uid): answer.correct for item, answer in answers}
    return np.array([right[key] for key in keys], np.float64)


def _surer_than_right(answers: Sequence[Answered], keys: Sequence[tuple[str, str]]) -> np.ndarray:
    """Confidence less 1 where right and 0 where wrong, of those of the items that have choices."""
    found = {(i.task, i.uid): a.confidence - a.correct for i, a in answers if i.choices}
    return np.array([found[key] for key in keys if key in found], np.float64)


def _mean(values_I: np.ndarray, resamples: int, seed: int) -> Interval | None:
    """With its 95 % bootstrap interval; None of nothing."""
    if not len(values_I):
        return None
    low, high = bootstrap_interval(values_I, np.ones(len(values_I)), resamples, seed)
    return Interval(value=float(values_I.mean()), low=low, high=high)
