"""What going on from an older generation brought specialists, and what they forgot of older text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from orchestrator.config.schema import RunConfig
from orchestrator.config.students import INITIAL
from orchestrator.reporting.scores import Difference, Score
from workers.evaluation.metrics.domain_scores import DomainScores, paired_differences, summarise


@dataclass(frozen=True, kw_only=True)
class BeforeAndAfter:
    """A specialist on the held-out text of its own domain of one generation, against that one's teacher: as it was when
    it began to go on, and as it is now."""

    before: Score
    after: Score
    difference: Difference
    """What is now beyond what was, on the same texts: a KL below 0 is gained, one above 0 forgotten."""


@dataclass(frozen=True, kw_only=True)
class GenerationsReport:
    """One specialist that went on from an older generation."""

    replay: float
    """Share of its target tokens that was to be of older generations' training texts."""
    new: BeforeAndAfter | None
    """On the text of this generation; None where that has none of its domain."""
    older: dict[str, BeforeAndAfter]
    """On that of each older one that has its domain."""


def generations_reports(
    config: RunConfig,
    scores: Mapping[str, Mapping[str, DomainScores]],
    older: Mapping[str, Mapping[str, DomainScores]],
) -> dict[str, GenerationsReport]:
    """By specialist that went on. `scores` are by model and domain, `older` by model and older generation."""
    found = {}
    for name in config.specialists if config.continues is not None else ():
        own, before = config.own_domain(name), f"{name}.{INITIAL}"
        if name not in older or before not in older or config.continues is None:
            continue
        new = [scores.get(model, {}).get(own) for model in (before, name)]
        found[name] = GenerationsReport(
            replay=config.continues.replay,
            new=None if new[0] is None or new[1] is None else _paired(config, new[0], new[1]),
            older={g: _paired(config, older[before][g], s) for g, s in older[name].items() if g in older[before]},
        )
    return found


def _paired(config: RunConfig, before: DomainScores, after: DomainScores) -> BeforeAndAfter:
    how = config.evaluate.bootstrap, config.seed
    return BeforeAndAfter(
        before=Score.of(summarise(before, *how)),
        after=Score.of(summarise(after, *how)),
        difference=Difference.of(paired_differences(after, before, *how)),
    )
