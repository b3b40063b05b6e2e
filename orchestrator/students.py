"""Which students a run trains, one after which, and what their workers are given.

A specialist and then its control, in the same workers: the control differs in nothing but its loss, and loading torch
and DeepSpeed once more costs seconds.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from orchestrator.attempt import Attempt
from orchestrator.config import RunConfig
from workers.student.config import LossConfig, SpecialistConfig
from workers.student.job import SpecialistJob
from workers.targets.contract import Contract

HARD_LABELS, GENERALIST = "hard_labels", "generalist"


@dataclass(frozen=True)
class Student:
    """A model to train: a specialist, or a control beside it."""

    name: str
    config: SpecialistConfig
    mix: dict[str, float]
    control_of: str | None = None


def lineup(config: RunConfig) -> list[list[Student]]:
    """Who trains after whom: each list is one trainer's, a specialist and then its control."""
    threads = []
    for name, specialist in config.specialists.items():
        chain = [Student(name, specialist, config.mix_of(name))]
        if HARD_LABELS in config.evaluate.against:
            loss = LossConfig(kl=0.0, ce=specialist.loss.kl + specialist.loss.ce)
            control = specialist.model_copy(update={"loss": loss})
            chain.append(Student(f"{name}.{HARD_LABELS}", control, config.mix_of(name), control_of=name))
        threads.append(chain)
    if GENERALIST in config.evaluate.against:
        first = next(iter(config.specialists.values()))
        domains = sorted({d for n in config.specialists for d in config.mix_of(n)})
        threads.append([Student(GENERALIST, first, {d: 1 / len(domains) for d in domains})])
    return threads


def initial_key(student: Student) -> str:
    """Where the weights lie that a student starts from: a control starts from its specialist's."""
    return f"students/{student.control_of or student.name}/initial"


def make_job(student: Student, now: Attempt, declared: Contract, *, repairs: bool) -> dict[str, Any]:
    """What the student's workers are given. `repairs`: whether damaged units are taught again meanwhile."""
    return asdict(
        SpecialistJob(
            name=student.name,
            run_uri=now.run.uri,
            initial=initial_key(student),
            mix=student.mix,
            loss=student.config.loss.model_dump(),
            texts=student.config.texts.model_dump(),
            train=student.config.train.model_dump(),
            seed=now.config.seed,
            declared=declared,
            epoch=now.epoch,
            progress=now.board_name,
            repairs=repairs,
            lora=student.config.model.lora.model_dump() if student.config.model.lora else None,
        )
    )
