"""Which students a run trains, and one after which.

A specialist and then its control, in the same workers: the control differs in nothing but its loss, and loading torch
and DeepSpeed once more costs seconds.
"""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.config.schema import RunConfig
from workers.layout import StudentLayout
from workers.student.config import LossConfig, SpecialistConfig

INITIAL, HARD_LABELS, GENERALIST, SINGLE_EXPERT = "initial", "hard_labels", "generalist", "single_expert"
"""What specialists are measured against (`evaluate.baselines`)."""
TEACHER, UNIGRAM = "teacher", "unigram"
"""What else has scores: the teacher on the probes; and, where the truth is known, how often each token occurs."""


@dataclass(frozen=True)
class Student:
    """A model to train: a specialist, or a control beside it."""

    name: str
    config: SpecialistConfig
    mix: dict[str, float]
    control_of: str | None = None


def student_groups(config: RunConfig) -> list[list[Student]]:
    """Who trains after whom: each list is one trainer's, a specialist and then its control."""
    groups = []
    for name, specialist in config.specialists.items():
        group = [Student(name, specialist, config.mix_of(name))]
        if HARD_LABELS in config.evaluate.baselines:
            loss = LossConfig(kl=0.0, ce=specialist.loss.kl + specialist.loss.ce)
            control = specialist.model_copy(update={"loss": loss})
            group.append(Student(f"{name}.{HARD_LABELS}", control, config.mix_of(name), control_of=name))
        groups.append(group)
    if GENERALIST in config.evaluate.baselines:
        first = next(iter(config.specialists.values()))
        domains = sorted({d for n in config.specialists for d in config.mix_of(n)})
        groups.append([Student(GENERALIST, first, {d: 1 / len(domains) for d in domains})])
    return groups


def starts_from(student: Student) -> StudentLayout:
    """Whose initial weights a student starts from: a control's are its specialist's."""
    return StudentLayout(student.control_of or student.name)
