"""What specialists do at the tokens that their teacher's answers hang on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.config.schema import RunConfig
from orchestrator.config.students import HARD_LABELS, INITIAL
from orchestrator.reporting.scores import Interval
from workers.evaluation.bridges.texts import BridgeFindings
from workers.evaluation.metrics.bridges import BridgeRates, bridge_rates

Bridges = Mapping[str, Mapping[str, BridgeFindings]]
"""By model and domain."""


@dataclass(frozen=True, kw_only=True)
class BridgeScores:
    """One model at tokens of its teacher's right answers that the teacher is sure of. Intervals are of draws of
    texts; a value is not finite (null) where there is no such token."""

    kl_at_bridges: Interval
    """KL(teacher ‖ model), nats per token, where the answer is wrong with the runner-up in the token's place."""
    kl_elsewhere: Interval
    """At the others."""
    top1_at_bridges: Interval
    """Share of them at which teacher and model find the same token most probable."""
    top1_elsewhere: Interval
    wrong: int
    """Of the questions that the teacher answers rightly, those that it answers wrong."""
    tried: int
    """Those of them whose text has a bridge."""
    repaired: Interval | None
    """Share of those that it answers rightly when it goes on from the teacher's answer up to and with the token of the
    bridge at which its KL is largest; None where there are none."""
    repaired_without: Interval | None
    """The same from the teacher's answer up to that token and without it."""
    repaired_by_token: Interval | None
    """The first less the second, paired: what the token repairs and not the prefix."""


@dataclass(frozen=True, kw_only=True)
class BridgesReport(BridgeScores):
    """A specialist on its own domain (another model on all of them) at its teacher's bridges."""

    asked: int
    """Items that the teacher was asked."""
    texts: int
    """Those that it answered rightly, and whose tokens were changed."""
    tokens: int
    """Tokens that were changed one by one, each one that the teacher gives more than `evaluate.bridges.sure`."""
    bridges: int
    """Those of them without which the answer is wrong."""
    initial: BridgeScores | None
    """Of its own initial weights; None where they were not asked, as below."""
    hard_labels: BridgeScores | None
    """Of its control of hard labels."""


def bridges_reports(config: RunConfig, found: Bridges) -> dict[str, BridgesReport]:
    """By specialist, and further model, whose teacher was asked items that are answered by writing."""
    reports = {}
    for name in (*config.specialists, *config.evaluate.models):
        if not any(findings.asked for findings in found.get(name, {}).values()):
            continue
        rates, beside = _rates(config, found, name), f"{name}.{HARD_LABELS}"
        reports[name] = BridgesReport(
            asked=rates.asked,
            texts=rates.texts,
            tokens=rates.tokens,
            bridges=rates.bridges,
            **_fields(rates),
            initial=_scores(config, found, f"{name}.{INITIAL}"),
            hard_labels=_scores(config, found, beside),
        )
    return reports


def _scores(config: RunConfig, found: Bridges, model: str) -> BridgeScores | None:
    return BridgeScores(**_fields(_rates(config, found, model))) if found.get(model) else None


def _rates(config: RunConfig, found: Bridges, model: str) -> BridgeRates:
    return bridge_rates(list(found[model].values()), config.evaluate.bootstrap, config.seed)


def _fields(rates: BridgeRates) -> dict[str, Any]:
    return {
        "kl_at_bridges": Interval.of(rates.kl_at),
        "kl_elsewhere": Interval.of(rates.kl_elsewhere),
        "top1_at_bridges": Interval.of(rates.agree_at),
        "top1_elsewhere": Interval.of(rates.agree_elsewhere),
        "wrong": rates.wrong,
        "tried": rates.tried,
        "repaired": Interval.of_known(rates.repaired),
        "repaired_without": Interval.of_known(rates.repaired_without),
        "repaired_by_token": Interval.of_known(rates.by_token),
    }
