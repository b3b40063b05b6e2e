"""What was measured: scores of models by domain, and paired differences between them. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.config.schema import RunConfig
from orchestrator.config.students import GENERALIST, HARD_LABELS
from workers.evaluation.job import Results
from workers.evaluation.metrics import paired_difference, summarise


@dataclass
class Evaluation:
    """Scores by model and domain, paired differences to the controls, ranks of probes."""

    scores: dict[str, dict[str, dict[str, float]]]
    differences: dict[str, dict[str, float]]
    probes: dict[str, dict[str, list[dict[str, float]]]]
    unigram: dict[str, float]


def compare(results: Results, config: RunConfig) -> Evaluation:
    """Means and intervals of an evaluator's results, and each specialist beside its controls."""
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
