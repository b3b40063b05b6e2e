"""What was measured: scores of models by domain, and paired differences between them. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from orchestrator.config.schema import RunConfig
from orchestrator.config.students import (
    CONTROLS,
    GENERALIST,
    TEACHER_4BIT,
    UNIGRAM,
    compared_with_control,
    split_milestone,
)
from orchestrator.reporting.measures.bridges import BridgesReport, bridges_reports
from orchestrator.reporting.measures.capacity import CapacityReport, capacity_reports
from orchestrator.reporting.measures.generations import GenerationsReport, generations_reports
from orchestrator.reporting.measures.harness import HarnessReport, harness_reports
from orchestrator.reporting.measures.own_text import OwnTextReport, own_text_reports
from orchestrator.reporting.measures.parrot import (
    BiasReport,
    InheritanceReport,
    ParrotReport,
    bias_reports,
    inheritance_reports,
    parrot_reports,
)
from orchestrator.reporting.measures.quantised import QuantisedScores, quantised_scores
from orchestrator.reporting.measures.tasks import Answered, TaskReport, task_reports
from workers.evaluation.bridges.texts import BridgeFindings
from workers.evaluation.cost import RoundedWeights, Speed
from workers.evaluation.harness.answers import HarnessAnswers
from workers.evaluation.heldout.sums import By
from workers.evaluation.metrics.domain_scores import (
    DomainScores,
    calibration,
    curve,
    paired_differences,
    summarise,
    worst,
)
from workers.evaluation.metrics.resampling import Estimate
from workers.evaluation.shown_texts import ShownText


@dataclass
class Results:
    """What was found of models, by name and domain."""

    scores: dict[str, dict[str, DomainScores]]
    probes: dict[str, dict[str, list[dict[str, float]]]]
    """Rank and probability of each probe's answer, in the order of the probes; `teacher` is the teacher's own."""
    answers: dict[str, dict[str, list[Answered]]] = field(default_factory=dict)
    """Of the items of tasks that they were asked, in the order of the items; `teacher` is the teacher itself."""
    speeds: dict[str, Speed] = field(default_factory=dict)
    """Of models that were timed; `teacher` is the first teacher."""
    texts: dict[str, dict[str, list[ShownText]]] = field(default_factory=dict)
    """A few held-out texts token by token."""
    own: dict[str, DomainScores] = field(default_factory=dict)
    """Of students on text that they wrote, on their own domains."""
    harness: dict[tuple[str, str], dict[str, HarnessAnswers]] = field(default_factory=dict)
    """Of tasks of lm-evaluation-harness, by task; with a model's name stands, of a teacher, its own in the settings."""
    bridges: dict[str, dict[str, BridgeFindings]] = field(default_factory=dict)
    """Of models at their teacher's bridges."""
    rounded: RoundedWeights | None = None
    """What the teacher at 4 bit weighs."""
    older: dict[str, dict[str, DomainScores]] = field(default_factory=dict)
    """Of specialists that went on from an older generation, and of what they were before, on their own domains'
    held-out text of older generations, by these."""


@dataclass
class Evaluation:
    """Scores by model and domain, paired differences to the controls, ranks of probes."""

    scores: dict[str, dict[str, dict[str, float]]]
    differences: dict[str, dict[str, Estimate]]
    probes: dict[str, dict[str, list[dict[str, float]]]]
    unigram: dict[str, float]
    """truth_excess_kl of the domain's unigram, where the truth is known."""
    curves: dict[str, dict[str, dict[str, list[dict[str, Any]]]]]
    """Means by bin of the teacher's `entropy` and of `position`, by model and domain."""
    calibration: dict[str, dict[str, dict[str, Any]]]
    """By model and domain."""
    hardest: dict[str, dict[str, list[dict[str, Any]]]]
    """The prompts that each model does worst on, by model and domain."""
    tasks: dict[str, dict[str, TaskReport]] = field(default_factory=dict)
    """Answers to the items of tasks, by specialist and domain."""
    speeds: dict[str, Speed] = field(default_factory=dict)
    """Of models that were timed; `teacher` is the first teacher."""
    capacity: dict[str, CapacityReport] = field(default_factory=dict)
    """By specialist, as the rest."""
    parrot: dict[str, ParrotReport] = field(default_factory=dict)
    inheritance: dict[str, InheritanceReport] = field(default_factory=dict)
    bias: dict[str, BiasReport] = field(default_factory=dict)
    own_text: dict[str, OwnTextReport] = field(default_factory=dict)
    harness: dict[str, dict[str, HarnessReport]] = field(default_factory=dict)
    """By specialist and task."""
    bridges: dict[str, BridgesReport] = field(default_factory=dict)
    quantised: dict[str, QuantisedScores] = field(default_factory=dict)
    generations: dict[str, GenerationsReport] = field(default_factory=dict)
    rounded: RoundedWeights | None = None
    """What the teacher at 4 bit weighs."""
    texts: dict[str, dict[str, list[ShownText]]] = field(default_factory=dict)
    """A few held-out texts token by token, by model and domain."""


def compare(results: Results, config: RunConfig) -> Evaluation:
    """Means and intervals of what was scored, and each specialist beside its controls."""
    resamples, seed = config.evaluate.bootstrap, config.seed
    unigram = results.scores.get(UNIGRAM, {})
    milestones = _milestones(results)
    models = {n: by for n, by in results.scores.items() if n != UNIGRAM and split_milestone(n) is None}
    differences: dict[str, dict[str, Estimate]] = {}
    for name in config.specialists:
        own = config.own_domain(name)
        for label, pair in pairs(config, name).items():
            one, other = (models.get(model, {}).get(own) for model in pair)
            if one is not None and other is not None:
                differences[label] = paired_differences(one, other, resamples, seed)
    return Evaluation(
        scores={n: {d: summarise(s, resamples, seed) for d, s in by.items()} for n, by in models.items()},
        differences=differences,
        probes=results.probes,
        unigram={d: summarise(s, resamples, seed).get("truth_excess_kl", math.nan) for d, s in unigram.items()},
        curves={
            n: {d: {by: curve(s, by) for by in _CURVES} for d, s in scores.items()} for n, scores in models.items()
        },
        calibration={n: {d: calibration(s, resamples, seed) for d, s in by.items()} for n, by in models.items()},
        hardest={n: {d: worst(s, _HARDEST) for d, s in by.items()} for n, by in models.items()},
        tasks=task_reports(config, results.answers),
        speeds=results.speeds,
        capacity=capacity_reports(config, models, milestones, results.speeds),
        parrot=parrot_reports(config, results.answers),
        inheritance=inheritance_reports(config, results.answers),
        bias=bias_reports(config, results.answers),
        own_text=own_text_reports(config, models, results.own),
        harness=harness_reports(config, results.harness),
        bridges=bridges_reports(config, results.bridges),
        quantised=quantised_scores(config, models),
        generations=generations_reports(config, models, results.older),
        rounded=results.rounded,
        texts=results.texts,
    )


def _milestones(results: Results) -> dict[str, dict[int, dict[str, DomainScores]]]:
    """What students were on the way, by their names and target tokens."""
    found: dict[str, dict[int, dict[str, DomainScores]]] = {}
    for name, by_domain in results.scores.items():
        if (milestone := split_milestone(name)) is not None:
            student, tokens = milestone
            found.setdefault(student, {})[tokens] = by_domain
    return found


def pairs(config: RunConfig, specialist: str) -> dict[str, tuple[str, str]]:
    """The models that a specialist's differences are taken between, by label: beside its controls it stands as it was
    when it had seen as many tokens."""
    beside_controls = compared_with_control(config, specialist)
    return {
        **{f"{specialist} - {kind}": (beside_controls, f"{specialist}.{kind}") for kind in CONTROLS},
        f"{specialist} - {GENERALIST}": (specialist, GENERALIST),
        f"{specialist} - {TEACHER_4BIT}": (specialist, TEACHER_4BIT),
        **{f"{specialist} - {other}": (specialist, other) for other in config.evaluate.beside.get(specialist, ())},
    }


_HARDEST = 5
"""Prompts that are named of each model."""

_CURVES: tuple[By, ...] = ("entropy", "position")
