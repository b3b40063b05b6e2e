"""What a model made of a task of lm-evaluation-harness, as it is kept: metrics with their value for each item. No
torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class HarnessMetric:
    """One metric of a task, or of a group of them."""

    value: float
    """As lm-evaluation-harness aggregates it."""
    stderr: float | None
    """Its standard error, likewise; None where it has none."""
    higher_is_better: bool | None
    """None where the task does not say."""
    by_item: tuple[float, ...] | None
    """What each item counts, in their order, where `value` is the mean of that; else None."""


@dataclass(frozen=True)
class HarnessAnswers:
    """A task, or a group of them, as one model answered it."""

    items: int
    fewshot: int
    """Examples before each item."""
    metrics: dict[str, HarnessMetric]
    """By the name of the metric, and of the filter behind a comma where it has one; in the task's order."""


def answers_to_bytes(answers: Mapping[str, HarnessAnswers]) -> bytes:
    """Answers by task as they are kept."""
    return json.dumps({task: asdict(own) for task, own in answers.items()}).encode()


def answers_from_bytes(data: bytes) -> dict[str, HarnessAnswers]:
    """From what `answers_to_bytes` gave."""
    return {task: _answers(values) for task, values in json.loads(data).items()}


def _answers(values: dict[str, object]) -> HarnessAnswers:
    found = {name: _metric(metric) for name, metric in values["metrics"].items()}  # type: ignore[attr-defined]
    return HarnessAnswers(**values | {"metrics": found})  # type: ignore[arg-type]


def _metric(values: dict[str, object]) -> HarnessMetric:
    by_item = values["by_item"]
    return HarnessMetric(**values | {"by_item": by_item if by_item is None else tuple(by_item)})  # type: ignore
