"""Whether students are large enough for their teachers to teach, by sizes alone: advice."""

from __future__ import annotations

from orchestrator.config.schema import RunConfig
from orchestrator.preflight.checks import Checked
from orchestrator.preflight.parts import student_parameters
from orchestrator.preflight.planning.targets import teacher_models
from workers.evaluation.metrics.capacity import size_advice
from workers.model_sizes import model_size


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
