"""What was measured, as records: scores of models, differences between them, ranks of probes.

A number that is not finite becomes null in JSON, which knows neither NaN nor infinity, and NaN when it is read.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BeforeValidator, PlainSerializer

from workers.evaluation.metrics.resampling import Estimate


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _number(value: Any) -> Any:
    return math.nan if value is None else value


Measured = Annotated[float, BeforeValidator(_number), PlainSerializer(_finite)]
"""A number that may not be finite."""

MeasuredOrNone = Annotated[float | None, PlainSerializer(_finite)]


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A number with its 95 % interval, of things drawn again; of two models the same things."""

    value: Measured
    low: Measured
    high: Measured

    @staticmethod
    def of(estimate: Estimate) -> Interval:
        return Interval(value=estimate.value, low=estimate.low, high=estimate.high)

    @property
    def percent(self) -> str:
        """Of a part of one, in words; a dash where it is not known."""
        if not math.isfinite(self.value):
            return "–"
        if not (math.isfinite(self.low) and math.isfinite(self.high)):
            return f"{self.value:.1%}"
        return f"{self.value:.1%} ({self.low:.1%} … {self.high:.1%})"

    @staticmethod
    def of_known(estimate: Estimate | None) -> Interval | None:
        """None of what is not known."""
        return None if estimate is None else Interval.of(estimate)


@dataclass(frozen=True, kw_only=True)
class Score:
    """What one model did on the held-out text of one domain, beside the teacher's exact distributions."""

    kl: Measured
    """KL(teacher ‖ model), nats per token."""
    kl_low: Measured
    """Lower end of its 95 % bootstrap interval over prompts, nats per token."""
    kl_high: Measured
    """Upper end likewise."""
    reverse_kl: Measured
    """KL(model ‖ teacher) on the same text, nats per token."""
    acceptance: Measured
    """Share of the model's tokens that speculative decoding with the teacher would accept: 1 less the total variation
    of both distributions."""
    acceptance_low: Measured
    """Lower end of its 95 % bootstrap interval over prompts."""
    acceptance_high: Measured
    """Upper end likewise."""
    top1_agreement: Measured
    """Share of tokens at which teacher and model find the same one most probable."""
    top16_overlap: Measured
    """Share of the teacher's 16 most probable tokens that are among the model's."""
    top16_mass: Measured
    """What the teacher gives those that are."""
    perplexity: Measured
    """Of the model on the held-out text: exp of the mean negative log-likelihood."""
    ece_teacher: Measured
    """Expected calibration error: the model's top probability against the teacher's probability of that token."""
    overconfidence_gap: Measured
    """Mean of the model's top probability less the teacher's probability of that token."""
    tokens: int
    """Target tokens that were scored."""
    prompts: int
    """Prompts that they belong to."""
    truth_excess_kl: MeasuredOrNone
    """KL(truth ‖ model) - KL(truth ‖ teacher), nats per token; None where the truth is not known."""
    truth_tokens_skipped: int | None
    """Tokens at which it is not known; None where it never is."""

    @staticmethod
    def of(summary: Mapping[str, Any]) -> Score:
        """The score that `workers.evaluation.metrics.domain_scores.summarise` gives."""
        return Score(**{"truth_excess_kl": None, "truth_tokens_skipped": None, **summary})


@dataclass(frozen=True, kw_only=True)
class ReliabilityBin:
    """Tokens at which a model is about equally confident: means over them."""

    tokens: int
    confidence: Measured
    """The model's top probability."""
    teacher_at_top: Measured
    """The teacher's probability of that token."""
    hit: Measured
    """How often it is the token of the text."""


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """How well the probabilities of one model are what they say, on the held-out text of one domain."""

    ece: Measured
    """Expected calibration error of the top probability to the text, 15 bins of equal mass."""
    ece_by_chance: Measured
    """What that error stays below 95 % of the time if the model is calibrated."""
    brier: Measured
    """Mean square of the top probability less whether the text has that token."""
    nll: Measured
    """Mean negative log-likelihood of the text's tokens, nats."""
    overconfidence: Measured
    """Mean of the top probability less how often the text has that token; negative: underconfident."""
    overconfidence_to_teacher: Measured
    """Mean of the top probability less the teacher's probability of that token."""
    entropy_gap: Measured
    """Entropy of the model less that of the teacher, nats per token."""
    temperature: Measured
    """By which dividing the model's logits brings it nearest to the teacher, between .5 and 2.5."""
    kl_at_temperature: Measured
    """KL(teacher ‖ model) then, nats per token."""
    reliability: tuple[ReliabilityBin, ...]
    """By rising confidence."""

    @staticmethod
    def of(found: Mapping[str, Any]) -> Calibration:
        """The record that `workers.evaluation.metrics.domain_scores.calibration` gives."""
        bins = tuple(ReliabilityBin(**each) for each in found["reliability"])
        return Calibration(**{**found, "reliability": bins})


@dataclass(frozen=True, kw_only=True)
class CurvePoint:
    """Means over the tokens of one bin, as `Score` has them over all."""

    at: float
    """Where the bin begins: nats of the teacher's entropy, or a position in the answer from 0."""
    tokens: int
    kl: Measured
    reverse_kl: Measured
    acceptance: Measured
    top1_agreement: Measured
    nll: Measured
    """Mean negative log-likelihood of the text's tokens, nats."""
    confidence: Measured
    """The model's top probability."""
    teacher_at_top: Measured
    """The teacher's probability of that token."""
    hit: Measured
    """How often it is the token of the text."""


@dataclass(frozen=True, kw_only=True)
class Curves:
    """How a model's scores on one domain vary, by rising bins."""

    entropy: tuple[CurvePoint, ...]
    """With the teacher's entropy."""
    position: tuple[CurvePoint, ...]
    """With the position in the answer."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """What one model has beyond another on the same tokens, with paired 95 % bootstrap intervals over prompts."""

    kl: Measured
    """KL of the first less that of the second, nats per token."""
    low: Measured
    """Lower end of its interval."""
    high: Measured
    """Upper end likewise."""
    reverse_kl: Interval
    acceptance: Interval
    top1_agreement: Interval
    nll: Interval
    """Of the text's tokens, nats per token."""
    overconfidence: Interval
    """Top probability less how often the text has that token."""
    overconfidence_to_teacher: Interval
    """Top probability less the teacher's probability of that token."""

    @staticmethod
    def of(found: Mapping[str, Estimate]) -> Difference:
        """The record of `workers.evaluation.metrics.domain_scores.paired_differences`."""
        kl = found["kl"]
        others = {name: Interval.of(estimate) for name, estimate in found.items() if name != "kl"}
        return Difference(kl=kl.value, low=kl.low, high=kl.high, **others)


@dataclass(frozen=True, kw_only=True)
class ProbeRank:
    """Where a model puts the right answer of one probe."""

    rank: int
    """1 is the most probable token."""
    probability: Measured


@dataclass(frozen=True, kw_only=True)
class ProbeRanks:
    """Ranks of the right answer of one probe, side by side; None for a model that was not asked."""

    teacher: int | None
    specialist: int | None
    hard_labels: int | None
    at_control_tokens: int | None = None
    """Of the specialist when it had seen as many tokens as the control; None where it ended with them too."""


@dataclass(frozen=True, kw_only=True)
class SingleExpertReport:
    """The teacher cut down to one expert a layer, without routers."""

    kl: dict[str, Measured]
    """KL to the whole teacher by domain, nats per token."""
    by_domain: dict[str, Score]


@dataclass(frozen=True, kw_only=True)
class FourBitReport:
    """The first teacher with its linear weights rounded to 4 bit, on the domains that it answers. It is not timed: the
    rounding is simulated. How well it is calibrated is in `calibration.teacher_4bit`."""

    by_domain: dict[str, Score]
    parameters: int
    rounded: int
    """Of these, those that were rounded."""
    bytes: int
    """Of what was rounded, 4.5 bits each with their steps, and of all else at 16 bits."""
    bytes_at_16_bit: int
    """Of the teacher with all at 16 bits."""


@dataclass(frozen=True, kw_only=True)
class UnigramReport:
    """A model that knows nothing but how often each word of a domain occurs."""

    truth_excess_kl: dict[str, Measured]
    """By domain, as `Score.truth_excess_kl`."""
