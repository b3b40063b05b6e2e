"""Whether a specialist is large enough: where its KL tends to, beside a generalist of its size.

Legend: n models on the way, P texts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from orchestrator.config.schema import RunConfig
from orchestrator.config.students import GENERALIST, INITIAL, student_groups
from orchestrator.reporting.scores import Interval, Measured, MeasuredOrNone
from workers.evaluation.metrics.capacity import floor_difference_of_texts, kl0_light
from workers.evaluation.metrics.domain_scores import DomainScores
from workers.evaluation.metrics.floor import LEAST_POINTS, fit_floor_of_texts
from workers.evaluation.metrics.resampling import Estimate

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
class CapacityReport:
    """Where a specialist tends to on its own domain: KL(D) = K_inf + b D^-g over target tokens D of that domain."""

    kl0: Measured
    """KL before training, nats per token."""
    light: Literal["green", "amber", "red"]
    """What that promises: green below .05, red above .15."""
    floor: MeasuredOrNone
    """K_inf, nats per token; None where there is no fit."""
    floor_low: MeasuredOrNone
    """Lower end of its 95 % interval: of draws of texts, and as wide as models lie off the curve."""
    floor_high: MeasuredOrNone
    exponent: MeasuredOrNone
    """g"""
    verdict: Literal["capacity-bound", "data-bound", "undecided"]
    """By the floor as a share of `kl0` (`evaluate.floor.bound`)."""
    advice: str
    """Why, and what to change."""
    points: tuple[CapacityPoint, ...]
    generalist: GeneralistFloor | None
    """None where none was trained."""


def capacity_reports(config: RunConfig, scores: Scores, milestones: Milestones) -> dict[str, CapacityReport]:
    """By specialist that kept models on its way and whose KL before training is known."""
    found: dict[str, CapacityReport] = {}
    for name in config.specialists if config.evaluate.floor is not None else ():
        domain = config.own_domain(name)
        initial = scores.get(f"{name}.{INITIAL}", {}).get(domain)
        course = _course(config, name, domain, milestones)
        if initial is not None and course:
            found[name] = _report(config, initial, course, _course(config, GENERALIST, domain, milestones))
    return found


_Course = dict[float, DomainScores]
"""By target tokens of a domain that were seen."""


def _course(config: RunConfig, student: str, domain: str, milestones: Milestones) -> _Course:
    mixes = {s.name: s.mix for group in student_groups(config) for s in group}
    share = mixes.get(student, {}).get(domain, 0.0)
    by_tokens = milestones.get(student, {})
    return {share * tokens: by[domain] for tokens, by in sorted(by_tokens.items()) if domain in by and share > 0}


def _report(config: RunConfig, initial: DomainScores, course: _Course, mixed: _Course) -> CapacityReport:
    assert config.evaluate.floor is not None
    resamples, seed = config.evaluate.bootstrap, config.seed
    tokens_P, kl0 = initial.by_prompt["tokens"], initial.by_prompt["kl"]
    found = fit_floor_of_texts(
        list(course), _sums(course), tokens_P, kl0, resamples, seed, limit=config.evaluate.floor.bound
    )
    floor = found.floor or Estimate(*[float("nan")] * 3)
    fitted = found.floor is not None
    return CapacityReport(
        kl0=found.kl0,
        light=kl0_light(max(found.kl0, 0.0)),
        floor=floor.value if fitted else None,
        floor_low=floor.low if fitted else None,
        floor_high=floor.high if fitted else None,
        exponent=found.exponent,
        verdict=found.verdict,
        advice=found.advice,
        points=_points(course),
        generalist=_generalist(course, mixed, tokens_P, resamples, seed) if fitted else None,
    )


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
