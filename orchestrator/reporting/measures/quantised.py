"""What rounding to few bits costs specialists, with and without training for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.config.schema import RunConfig
from orchestrator.config.students import PTQ, QUANTISED, quantised_train
from orchestrator.reporting.scores import Difference, Interval, Score
from orchestrator.runs.folder import RunFolder
from workers.evaluation.metrics.domain_scores import DomainScores, paired_differences, paired_share, summarise


@dataclass(frozen=True, kw_only=True)
class QuantisedScores:
    """Of a specialist on its own domain: its weights rounded (PTQ), and its sibling that was trained on with rounded
    weights (QAD); differences and the share are paired, over prompts."""

    ptq: Score
    """Of its trained weights, put on the lattice without training."""
    qad: Score | None
    """Of the sibling; None where its training has not ended, as below."""
    ptq_loss: Difference
    """What PTQ has beyond the specialist with whole weights."""
    qad_loss: Difference | None
    """What QAD has beyond it; below 0 the tokens that it trained on brought more than rounding took."""
    qad_less_ptq: Difference | None
    qad_over_ptq: Interval | None
    """The KL that QAD loses, as a share of what PTQ loses; not known where PTQ loses nothing."""


@dataclass(frozen=True, kw_only=True)
class QuantisedReport:
    """The quantised sibling of a specialist, and what rounding alone does."""

    format: str
    """Lattice of the linear layers."""
    embeddings: str | None
    """Lattice of embeddings and head; None where they are whole."""
    keep: tuple[str, ...]
    """Linear layers that are whole."""
    lr: float
    """Peak learning rate of the sibling."""
    tokens: int
    """Target tokens that it trained on; 0 where its training has not ended."""
    steps: int
    error: str | None
    """Why it failed."""
    scores: QuantisedScores | None
    """None where they were not measured."""


def quantised_scores(config: RunConfig, scores: Mapping[str, Mapping[str, DomainScores]]) -> dict[str, QuantisedScores]:
    """By specialist that was scored with its weights rounded."""
    found = {}
    for name in config.specialists:
        own = config.own_domain(name)
        whole, ptq, qad = (scores.get(n, {}).get(own) for n in (name, f"{name}.{PTQ}", f"{name}.{QUANTISED}"))
        if whole is not None and ptq is not None:
            found[name] = _scores(config, whole, ptq, qad)
    return found


def _scores(config: RunConfig, whole: DomainScores, ptq: DomainScores, qad: DomainScores | None) -> QuantisedScores:
    how = config.evaluate.bootstrap, config.seed
    return QuantisedScores(
        ptq=Score.of(summarise(ptq, *how)),
        qad=None if qad is None else Score.of(summarise(qad, *how)),
        ptq_loss=Difference.of(paired_differences(ptq, whole, *how)),
        qad_loss=None if qad is None else Difference.of(paired_differences(qad, whole, *how)),
        qad_less_ptq=None if qad is None else Difference.of(paired_differences(qad, ptq, *how)),
        qad_over_ptq=None if qad is None else Interval.of(paired_share(qad, ptq, whole, *how)),
    )


def quantised_report(
    run: RunFolder, config: RunConfig, name: str, scores: QuantisedScores | None, error: str | None
) -> QuantisedReport | None:
    """That of a specialist; None where it has no quantised sibling."""
    settings = config.specialists[name].quantised
    if settings is None:
        return None
    done: dict[str, Any] = run.student_done(f"{name}.{QUANTISED}") or {}
    return QuantisedReport(
        format=settings.format,
        embeddings=settings.embeddings,
        keep=settings.keep,
        lr=quantised_train(config.specialists[name].train, settings).lr,
        tokens=done.get("tokens", 0),
        steps=done.get("steps", 0),
        error=error,
        scores=scores,
    )
