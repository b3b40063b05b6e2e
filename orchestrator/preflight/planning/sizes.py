"""Advice by sizes alone: students that are small for their teachers, and steps that are small for their GPUs."""

from __future__ import annotations

from orchestrator.config.schema import RunConfig
from orchestrator.preflight.checks import Checked
from orchestrator.preflight.parts import student_parameters
from orchestrator.preflight.planning.targets import teacher_models
from workers.evaluation.metrics.capacity import size_advice
from workers.model_sizes import model_size

GPU_TOKENS = 8_192
"""Target tokens of a step for each GPU, from which on it is at work most of the time, about."""


def size_notes(config: RunConfig, found: Checked, vocabulary: int) -> list[str]:
    """A line for each specialist that has less of its teacher's active parameters than distillation was seen to pay
    from. None for what is not downloaded yet."""
    models, notes = teacher_models(found), []
    for name, specialist in config.specialists.items():
        teacher = config.teacher_of(config.own_domain(name))
        size, parameters = model_size(found.teacher_folders[teacher]), student_parameters(specialist.model, vocabulary)
        if size is None or not parameters:
            continue
        active = size.active(models[teacher])
        if active and not (advice := size_advice(parameters, active)).enough:
            notes.append(f"specialists.{name}: {advice.text}")
    return notes


def step_notes(config: RunConfig) -> list[str]:
    """A line for specialists whose steps have few tokens for each GPU, the same of several in one."""
    small: dict[tuple[int, int], list[str]] = {}
    for name, specialist in config.specialists.items():
        train = specialist.train
        if train.gpus_per_worker and train.batch_tokens < GPU_TOKENS * train.workers[1]:
            small.setdefault((train.batch_tokens, train.workers[1]), []).append(name)
    return [
        f"specialists {', '.join(names)}: train.batch_tokens {tokens:,} is {tokens // workers:,} tokens a step for "
        f"each of {workers} GPUs, which are through with them before the gradients have been exchanged; "
        f"{GPU_TOKENS * workers:,} or more keep them at work (with a higher lr)"
        for (tokens, workers), names in small.items()
    ]
