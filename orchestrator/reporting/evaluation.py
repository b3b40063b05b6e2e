"""What was measured: scores of models by domain, and paired differences between them. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.config.schema import RunConfig
from orchestrator.config.students import GENERALIST, HARD_LABELS, compared_with_control
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
        for label, models in pairs(config, name).items():
            one, other = (results.scores.get(model, {}).get(own) for model in models)
            if one is not None and other is not None:
                differences[label] = paired_difference(one, other, resamples, seed)
    return Evaluation(scores, differences, results.probes, results.unigram)


def pairs(config: RunConfig, specialist: str) -> dict[str, tuple[str, str]]:
    """The models that a specialist's differences are taken between, by label: beside the control of hard labels it
    stands as it was when it had seen as many tokens."""
    return {
        f"{specialist} - {HARD_LABELS}": (compared_with_control(config, specialist), f"{specialist}.{HARD_LABELS}"),
        f"{specialist} - {GENERALIST}": (specialist, GENERALIST),
    }
