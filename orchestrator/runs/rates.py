"""How fast a run worked, for the plan of another one."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.config.schema import RunConfig


@dataclass(frozen=True)
class RunRates:
    """What one run measured."""

    run: str
    """Its name."""
    uri: str
    on: str
    """What its driver ran on, in words."""
    config: RunConfig
    """As it was written."""
    teachers: dict[str, float]
    """Target tokens a second of one replica at work; of those that made any."""
    starts: dict[str, float]
    """Seconds in which a replica of each had its place and made no units: loading, and waiting."""
    students: dict[str, float]
    """Target tokens a second of one worker in its place, its start included, when it did not wait for targets; of those
    whose training has ended."""
    parameters: dict[str, int]
    """By student, and `teacher` of the first teacher, as far as that is known."""
    text_targets: float | None
    """Target tokens of a training text on average; those of rejected ones are none."""
    prepare_s: float
    evaluate_s: float
    """Of one process that scored."""
    export_s: float
