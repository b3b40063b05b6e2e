"""What models cost to run, beside their teacher, and which part of the teacher's work each specialist used."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.config.schema import RunConfig
from orchestrator.config.students import TEACHER, starts_from, student_groups
from orchestrator.reporting.scores import Measured
from orchestrator.runs.folder import RunFolder
from workers.evaluation.cost import Speed, dollars_per_million


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Of one model, measured where it was scored."""

    parameters: int
    active_parameters: int
    """Those that one token meets: of a mixture of experts, without the experts that it is not sent to."""
    bytes: int
    """Of its weights, as they were loaded."""
    flops_per_token: int
    """Two for each weight that a token is multiplied with; what attention does with earlier tokens is left out."""
    tokens_per_s: Measured
    """Over `batch` texts at once, greedily, after the first token."""
    first_token_ms: Measured
    """From a prompt of `prompt_tokens` alone to its first token."""
    prompt_tokens: int
    batch: int
    device: str
    dollars_per_million: float | None
    """Dollars for a million tokens at that speed; None where `evaluate.cost.dollars_per_hour` has no price of it."""


@dataclass(frozen=True, kw_only=True)
class StudentCost(Cost):
    """Of a specialist, with how many times less it is than its teacher."""

    target: float
    """How many times cheaper it is meant to be (`evaluate.cost.target`)."""
    times_fewer_parameters: float | None
    """None where the teacher was not timed, as below."""
    times_fewer_bytes: float | None
    times_fewer_flops: float | None
    times_faster: float | None
    """By tokens a second, on the same kind of device; None where they were timed on others."""
    times_cheaper: float | None
    """By dollars; None where there is no price."""
    teacher_s: float | None
    """Seconds of a replica of its teacher that went to what it trained on: those of each domain, shared out among the
    specialists by the tokens that they take from it."""
    teacher_share: float | None
    """The same as a part of all that teachers worked for training."""


@dataclass(frozen=True, kw_only=True)
class TrainingCost:
    """What the training of a student took: a specialist, a control beside it, or the generalist."""

    tokens: int
    """Target tokens."""
    steps: int
    seconds: float | None
    """Seconds of the clock in which it stepped, in all attempts; None where no log of it is left."""
    waited_s: float | None
    """Seconds that it waited for targets in its place; None of a student from before these were noted."""
    parameters: int | None
    """None of a student from before these were noted."""
    flops: float | None
    """6 for each parameter and target token (C = 6 N D of arXiv 2001.08361, section 2.1); what stands before targets in
    a text comes on top."""


def training_costs(run: RunFolder, config: RunConfig) -> dict[str, TrainingCost]:
    """By student whose training has ended; seconds are not known here."""
    found = {}
    for student in (s for group in student_groups(config) for s in group):
        if (done := run.student_done(student.name)) is not None:
            parameters = (run.read_json(starts_from(student).initial_facts) or {}).get("parameters")
            tokens, steps = done.get("tokens", 0), done.get("steps", 0)
            flops = 6.0 * parameters * tokens if parameters else None
            found[student.name] = TrainingCost(
                tokens=tokens,
                steps=steps,
                seconds=None,
                waited_s=done.get("waited_s"),
                parameters=parameters,
                flops=flops,
            )
    return found


def cost_of(speed: Speed, config: RunConfig) -> Cost:
    """The record of a measurement."""
    return Cost(**_fields(speed, config))


def student_cost(
    config: RunConfig, name: str, speeds: Mapping[str, Speed], busy_s: Mapping[str, float]
) -> StudentCost | None:
    """What a specialist costs; None where it was not timed. `busy_s` are seconds of teachers by domain."""
    if name not in speeds:
        return None
    own, teacher = speeds[name], speeds.get(TEACHER)
    prices = config.evaluate.cost.dollars_per_hour
    mine, theirs = (None if s is None else dollars_per_million(s, prices) for s in (own, teacher))
    used = teacher_seconds(config, busy_s).get(name)
    return StudentCost(
        **_fields(own, config),
        target=config.evaluate.cost.target,
        times_fewer_parameters=None if teacher is None else teacher.parameters / own.parameters,
        times_fewer_bytes=None if teacher is None else teacher.weight_bytes / own.weight_bytes,
        times_fewer_flops=None if teacher is None else teacher.flops_per_token / own.flops_per_token,
        times_faster=own.tokens_per_s / teacher.tokens_per_s if teacher and teacher.device == own.device else None,
        times_cheaper=theirs / mine if mine and theirs else None,
        teacher_s=used,
        teacher_share=None if used is None or not busy_s else used / sum(busy_s.values()),
    )


def teacher_seconds(config: RunConfig, busy_s: Mapping[str, float]) -> dict[str, float]:
    """By specialist, its part of what teachers worked: of each domain by the tokens that it takes from it. What no
    specialist takes is nobody's."""
    taken = {
        name: {domain: share * s.train.tokens for domain, share in config.mix_of(name).items()}
        for name, s in config.specialists.items()
    }
    whole = {domain: sum(by.get(domain, 0.0) for by in taken.values()) for domain in busy_s}
    return {
        name: sum(busy_s[d] * tokens / whole[d] for d, tokens in by.items() if d in busy_s and whole[d])
        for name, by in taken.items()
    }


def _fields(speed: Speed, config: RunConfig) -> dict[str, Any]:
    dollars = dollars_per_million(speed, config.evaluate.cost.dollars_per_hour)
    found = {**vars(speed), "bytes": speed.weight_bytes, "dollars_per_million": dollars}
    return {name: found[name] for name in Cost.__dataclass_fields__}
