"""What was measured: scores of models by domain, and paired differences between them. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from orchestrator.config.schema import RunConfig
from orchestrator.config.students import GENERALIST, HARD_LABELS, UNIGRAM
from workers.evaluation.metrics import DomainScores, curve, paired_difference, summarise
from workers.evaluation.sums import By


@dataclass
class Results:
    """What was found of models, by name and domain."""

    scores: dict[str, dict[str, DomainScores]]
    probes: dict[str, dict[str, list[dict[str, float]]]]
    """Rank and probability of each probe's answer, in the order of the probes; `teacher` is the teacher's own."""


@dataclass
class Evaluation:
    """Scores by model and domain, paired differences to the controls, ranks of probes."""

    scores: dict[str, dict[str, dict[str, float]]]
    differences: dict[str, dict[str, float]]
    probes: dict[str, dict[str, list[dict[str, float]]]]
    unigram: dict[str, float]
    """truth_excess_kl of the domain's unigram, where the truth is known."""
    curves: dict[str, dict[str, dict[str, list[dict[str, Any]]]]]
    """Means by bin of the teacher's `entropy` and of `position`, by model and domain."""


def compare(results: Results, config: RunConfig) -> Evaluation:
    """Means and intervals of what was scored, and each specialist beside its controls."""
    resamples, seed = config.evaluate.bootstrap, config.seed
    unigram = results.scores.get(UNIGRAM, {})
    models = {name: by for name, by in results.scores.items() if name != UNIGRAM}
    differences = {}
    for name in config.specialists:
        own = config.own_domain(name)
        for other in (f"{name}.{HARD_LABELS}", GENERALIST):
            pair = models.get(name, {}).get(own), models.get(other, {}).get(own)
            if pair[0] is not None and pair[1] is not None:
                label = f"{name} - {other.removeprefix(name + '.')}"
                differences[label] = paired_difference(pair[0], pair[1], resamples, seed)
    return Evaluation(
        scores={n: {d: summarise(s, resamples, seed) for d, s in by.items()} for n, by in models.items()},
        differences=differences,
        probes=results.probes,
        unigram={d: summarise(s, resamples, seed).get("truth_excess_kl", math.nan) for d, s in unigram.items()},
        curves={
            n: {d: {by: curve(s, by) for by in _CURVES} for d, s in scores.items()} for n, scores in models.items()
        },
    )


_CURVES: tuple[By, ...] = ("entropy", "position")
