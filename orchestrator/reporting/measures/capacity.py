"""Whether a specialist is large enough: where its KL tends to, beside a generalist of its size.

Legend: n models on the way, P texts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from orchestrator.config.schema import RunConfig
from orchestrator.config.students import GENERALIST, INITIAL, TEACHER, student_groups
from orchestrator.reporting.scores import Interval, Measured, MeasuredOrNone
from workers.evaluation.cost import Speed
from workers.evaluation.metrics.capacity import floor_difference_of_texts, size_advice
from workers.evaluation.metrics.domain_scores import DomainScores
from workers.evaluation.metrics.floor import LEAST_POINTS, fit_floor_of_texts
from workers.first_kl import Light, kl0_light

Scores = Mapping[str, Mapping[str, DomainScores]]
"""By model and domain."""

Milestones = Mapping[str, Mapping[int, Mapping[str, DomainScores]]]
"""By student, target tokens that it had seen, and domain."""


@dataclass(frozen=True, kw_only=True)
class CapacityPoint:
    """A student on its way."""

    tokens: int
    """Target tokens of the domain that it had seen."""
    kl: Measured


@dataclass(frozen=True, kw_only=True)
class GeneralistFloor:
    """Where the generalist tends to on a specialist's domain, in target tokens of that domain."""

    floor: Measured
    floor_low: Measured
    floor_high: Measured
    difference: Measured
    """Its floor less the specialist's, above 0 where specialising pays, nats per token."""
    difference_low: Measured
    """Lower end of its 95 % interval, of paired draws of texts, and as wide likewise."""
    difference_high: Measured
    sentence: str
    """What that says."""
    equal_tokens: MeasuredOrNone
    """Target tokens of the domain that both had seen on their way, the most of such; None where there are none."""
    at_equal_tokens: Interval | None
    """KL of the generalist less that of the specialist there, read off both curves, nats per token."""
    at_equal_sentence: str
    """What that says; empty where there are none."""
    points: tuple[CapacityPoint, ...]


@dataclass(frozen=True, kw_only=True)
class SizeReport:
    """A specialist's parameters beside those of its teacher that work on a token."""

    ratio: Measured
    enough: bool
    """Whether the ratio is one from which distillation was seen to pay: advice, not a verdict."""
    advice: str


@dataclass(frozen=True, kw_only=True)
class CapacityReport:
    """Whether a specialist is large enough: how far it was from its teacher before it was trained, its size, and where
    it tends to on its own domain, KL(D) = K_inf + b D^-g over target tokens D of that domain."""

    kl0: Measured
    """KL of the initial weights on held-out text, nats per token."""
    light: Light
    """What that promises, by `evaluate.first_kl`."""
    size: SizeReport | None
    """None where it or its teacher was not timed."""
    floor: MeasuredOrNone
    """K_inf, nats per token; None where there is no fit."""
    floor_low: MeasuredOrNone
    """Lower end of its 95 % interval: of draws of texts, and as wide as models lie off the curve."""
    floor_high: MeasuredOrNone
    exponent: MeasuredOrNone
    """g"""
    remaining: MeasuredOrNone
    """b D^-g at the last of `points`: what more tokens may take off yet, nats per token."""
    verdict: Literal["capacity-bound", "data-bound", "undecided", "not measured"]
    """By the floor as a share of `kl0` (`evaluate.floor.bound`)."""
    advice: str
    """Why, and what to change."""
    points: tuple[CapacityPoint, ...]
    generalist: GeneralistFloor | None
    """None where none was trained."""


def capacity_reports(
    config: RunConfig, scores: Scores, milestones: Milestones, speeds: Mapping[str, Speed]
) -> dict[str, CapacityReport]:
    """By specialist whose KL before training is known; without a floor where none was asked for."""
    found: dict[str, CapacityReport] = {}
    for name in config.specialists:
        domain = config.own_domain(name)
        if (initial := scores.get(f"{name}.{INITIAL}", {}).get(domain)) is None:
            continue
        course, mixed = (_course(config, student, domain, milestones) for student in (name, GENERALIST))
        kl0 = max(float(initial.by_prompt["kl"].sum() / initial.by_prompt["tokens"].sum()), 0.0)
        limits = config.evaluate.first_kl
        found[name] = CapacityReport(
            kl0=kl0,
            light=kl0_light(kl0, limits.green, limits.red),
            size=_size(speeds, name),
            **_tendency(config, initial, course, mixed),
        )
    return found


def _size(speeds: Mapping[str, Speed], name: str) -> SizeReport | None:
    if name not in speeds or TEACHER not in speeds:
        return None
    found = size_advice(speeds[name].parameters, speeds[TEACHER].active_parameters)
    return SizeReport(ratio=found.ratio, enough=found.enough, advice=found.text)


_Course = dict[float, DomainScores]
"""By target tokens of a domain that were seen."""


def _course(config: RunConfig, student: str, domain: str, milestones: Milestones) -> _Course:
    mixes = {s.name: s.mix for group in student_groups(config) for s in group}
    share = mixes.get(student, {}).get(domain, 0.0)
    by_tokens = milestones.get(student, {})
    return {share * tokens: by[domain] for tokens, by in sorted(by_tokens.items()) if domain in by and share > 0}


_NOT_KEPT: dict[str, Any] = {
    **dict.fromkeys(("floor", "floor_low", "floor_high", "exponent", "remaining", "generalist")),
    "verdict": "not measured",
    "advice": "no models were kept while it trained (`evaluate.floor`), so what more tokens would bring is not known",
    "points": (),
}


def _tendency(config: RunConfig, initial: DomainScores, course: _Course, mixed: _Course) -> dict[str, Any]:
    """Where a specialist tends to, as fields of its report."""
    if config.evaluate.floor is None or not course:
        return _NOT_KEPT
    resamples, seed = config.evaluate.bootstrap, config.seed
    tokens_P, kl0_P = initial.by_prompt["tokens"], initial.by_prompt["kl"]
    limit = config.evaluate.floor.bound
    found = fit_floor_of_texts(list(course), _sums(course), tokens_P, kl0_P, resamples, seed, limit=limit)
    floor = found.floor
    return {
        "floor": None if floor is None else floor.value,
        "floor_low": None if floor is None else floor.low,
        "floor_high": None if floor is None else floor.high,
        "exponent": found.exponent,
        "remaining": found.scale,
        "verdict": found.verdict,
        "advice": found.advice,
        "points": _points(course),
        "generalist": None if floor is None else _generalist(course, mixed, tokens_P, resamples, seed),
    }


def _generalist(
    course: _Course, mixed: _Course, tokens_P: np.ndarray, resamples: int, seed: int
) -> GeneralistFloor | None:
    if len(mixed) < LEAST_POINTS:
        return None
    both = floor_difference_of_texts(list(mixed), _sums(mixed), list(course), _sums(course), tokens_P, resamples, seed)
    return GeneralistFloor(
        floor=both.mixed.value,
        floor_low=both.mixed.low,
        floor_high=both.mixed.high,
        difference=both.difference.value,
        difference_low=both.difference.low,
        difference_high=both.difference.high,
        sentence=both.verdict,
        equal_tokens=both.equal_tokens,
        at_equal_tokens=Interval.of_known(both.at_equal_tokens),
        at_equal_sentence=both.at_equal_verdict,
        points=_points(mixed),
    )


def _sums(course: _Course) -> np.ndarray:
    """[n, P] sums of KL over the texts of prompts."""
    return np.stack([scores.by_prompt["kl"] for scores in course.values()])


def _points(course: _Course) -> tuple[CapacityPoint, ...]:
    return tuple(
        CapacityPoint(tokens=round(tokens), kl=float(s.by_prompt["kl"].sum() / s.by_prompt["tokens"].sum()))
        for tokens, s in course.items()
    )
