"""How far specialists are from their teacher on text of their own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from orchestrator.config.schema import RunConfig
from orchestrator.reporting.scores import Interval, Measured
from workers.evaluation.metrics.domain_scores import DomainScores
from workers.evaluation.metrics.resampling import Estimate, ratio, resampled_sums

_SUMS = ("kl", "reverse_kl", "tv", "tokens")


@dataclass(frozen=True, kw_only=True)
class OwnTextReport:
    """A specialist on text that it sampled itself behind held-out prompts of its own domain."""

    prompts: int
    tokens: int
    kl: Interval
    """KL(teacher ‖ specialist) on the specialist's own prefixes, nats per token."""
    reverse_kl: Interval
    """KL(specialist ‖ teacher) there."""
    acceptance: Interval
    """1 less the total variation there."""
    exposure_bias: Interval
    """That KL less the one on the teacher's text behind the same prompts, paired by prompt: above 0 it does worse where
    it goes on from its own words."""
    repetition: Measured
    """Its mean entropy there less the teacher's, nats per token; far below 0 it repeats itself."""


def own_text_reports(
    config: RunConfig, scores: Mapping[str, Mapping[str, DomainScores]], own: Mapping[str, DomainScores]
) -> dict[str, OwnTextReport]:
    """By specialist that wrote text."""
    return {
        name: _report(config, found, scores[name][config.own_domain(name)])
        for name, found in own.items()
        if config.own_domain(name) in scores.get(name, {})
    }


def _report(config: RunConfig, own: DomainScores, heldout: DomainScores) -> OwnTextReport:
    place = {uid: p for p, uid in enumerate(heldout.prompts)}
    there = np.array([place[uid] for uid in own.prompts])
    columns = [own.by_prompt[n] for n in _SUMS] + [heldout.by_prompt[n][there] for n in ("kl", "tokens")]
    values_PK = np.stack(columns, 1)
    draws_RK = resampled_sums(values_PK, config.evaluate.bootstrap, config.seed)
    both_RK = np.concatenate([values_PK.sum(0)[None], draws_RK])
    kl_R, reverse_R, tv_R = (ratio(both_RK[:, i], both_RK[:, 3]) for i in range(3))
    before_R = ratio(both_RK[:, 4], both_RK[:, 5])
    tokens = own.by_prompt["tokens"].sum()
    entropy = (own.by_prompt["model_entropy"].sum() - own.by_prompt["entropy"].sum()) / tokens
    return OwnTextReport(
        prompts=len(own.prompts),
        tokens=int(tokens),
        kl=_interval(kl_R),
        reverse_kl=_interval(reverse_R),
        acceptance=_interval(1 - tv_R),
        exposure_bias=_interval(kl_R - before_R),
        repetition=float(entropy),
    )


def _interval(values_R: np.ndarray) -> Interval:
    return Interval.of(Estimate.of(float(values_R[0]), values_R[1:]))
