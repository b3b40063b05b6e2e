"""What a model makes of tasks of lm-evaluation-harness. Imports it."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from contextlib import ExitStack
from typing import Any
from unittest.mock import patch

from lm_eval.evaluator import evaluate

from workers.evaluation.harness.answers import HarnessAnswers, HarnessMetric
from workers.evaluation.harness.config import HarnessConfig
from workers.evaluation.harness.loaded_model import LoadedModel
from workers.evaluation.harness.loading import offline, quiet

_NOT_METRICS = ("alias", "name", "sample_len", "sample_count")

_ROUNDING = 1e-9
"""Of the mean of a task's items, summed in whatever order."""


def ask_harness(
    model: LoadedModel, name: str, loaded: Any, settings: HarnessConfig, run_code: bool, resamples: int
) -> dict[str, HarnessAnswers]:
    """A model's answers to tasks that `HarnessTasks.load` gave, by task, and those of groups that add up their tasks.
    `resamples` are for standard errors that have no formula. Raises ValueError, with the name that they have in the
    settings, for tasks that fail."""
    environment = {"DISABLE_MULTIPROC": "1", "HF_ALLOW_CODE_EVAL": "1" if run_code else "0"}
    with ExitStack() as stack:
        stack.enter_context(patch.dict(os.environ, environment))
        stack.enter_context(quiet())
        stack.enter_context(offline(settings.offline))
        try:
            found: Any = evaluate(
                model,
                loaded,
                limit=settings.limit,
                bootstrap_iters=resamples,
                apply_chat_template=settings.chat,
                fewshot_as_multiturn=settings.chat,
                confirm_run_unsafe_code=run_code,
            )
        except Exception as error:
            said = " ".join(str(error).split())
            raise ValueError(f"evaluate.harness.tasks: {name!r} failed: {type(error).__name__}: {said}") from error
    return {
        task: HarnessAnswers(
            items=int(result.get("sample_len", 0)),
            fewshot=int(found["n-shot"].get(task, 0)),
            metrics=_metrics(result, found["samples"].get(task, ()), found["higher_is_better"].get(task) or {}),
        )
        for task, result in found["results"].items()
    }


def _metrics(result: dict[str, Any], samples: Iterable[dict[str, Any]], better: dict[str, bool]) -> dict[str, Any]:
    """Metrics by name, in their order."""
    found, samples = {}, list(samples)
    for key, value in result.items():
        metric, _, filtered = key.partition(",")
        if key in _NOT_METRICS or metric.endswith("_stderr") or not _is_number(value):
            continue
        stderr = result.get(f"{metric}_stderr,{filtered}")
        by_item = [sample[metric] for sample in samples if sample["filter"] == filtered and metric in sample]
        found[metric if filtered == "none" else f"{metric},{filtered}"] = HarnessMetric(
            value=float(value),
            stderr=float(stderr) if stderr is not None and _is_number(stderr) else None,
            higher_is_better=better.get(metric),
            by_item=_counted(by_item, float(value)),
        )
    return found


def _counted(by_item: list[Any], value: float) -> tuple[float, ...] | None:
    """Numbers whose mean is the value; None where they are others, or no numbers."""
    if not by_item or not all(_is_number(one) for one in by_item):
        return None
    numbers = tuple(float(one) for one in by_item)
    mean = math.fsum(numbers) / len(numbers)
    return numbers if abs(mean - value) <= _ROUNDING * max(1.0, abs(value)) else None


def _is_number(value: Any) -> bool:
    import numpy as np

    return isinstance(value, int | float | np.number | np.bool_)
