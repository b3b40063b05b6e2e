"""Training the specialists at once: one supervisor actor, a thread and a TorchTrainer for each.

Each trainer trains its specialist and then that specialist's control, in the same workers: the control differs in
nothing but its loss, and loading torch and DeepSpeed once more costs seconds. One that fails is reported alone.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import ray

from cluster.storage import open_storage
from orchestrator.attempt import Attempt
from orchestrator.config import RunConfig
from workers.student.config import LossConfig, SpecialistConfig
from workers.student.train_loop import SpecialistJob, train_chain
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


@ray.remote(num_cpus=0, max_restarts=0)
class Supervisor:
    """Runs trainers, one per call; calls run in threads of this actor, so that they train at the same time."""

    def train(self, jobs: list[dict[str, Any]]) -> str | None:
        """Train a chain of students to its end; returns None, or the first cause of its failure."""
        from ray.train import FailureConfig, RunConfig, ScalingConfig
        from ray.train.torch import TorchConfig, TorchTrainer
        from ray.train.v2.api.exceptions import ControllerError, WorkerGroupError

        train = jobs[0]["train"]
        gpu, (least, most) = train["gpus_per_worker"] > 0, train["workers"]
        resources = {"CPU": train["cpus_per_worker"]} | ({"GPU": train["gpus_per_worker"]} if gpu else {})
        filesystem, path = open_storage(jobs[0]["run_uri"]).arrow_filesystem("ray_train")
        trainer = TorchTrainer(
            train_chain,
            train_loop_config={"jobs": jobs},
            torch_config=TorchConfig(backend="nccl" if gpu else "gloo"),
            scaling_config=ScalingConfig(
                num_workers=least if least == most else (least, most),
                use_gpu=gpu,
                resources_per_worker=resources,
                label_selector=train["label_selector"] or None,
            ),
            run_config=RunConfig(
                name=jobs[0]["name"],
                storage_path=path,
                storage_filesystem=filesystem,
                failure_config=FailureConfig(max_failures=train["max_failures"]),
            ),
        )
        try:
            trainer.fit()
        except WorkerGroupError as error:
            causes = [str(e) or type(e).__name__ for e in error.worker_failures.values()]
            return _root_cause(causes[0] if causes else str(error))
        except ControllerError as error:
            return _root_cause(str(error))
        return None


def _root_cause(text: str) -> str:
    """The last line of a traceback that names an error: what a person looks for."""
    if "low on memory" in text or "out of memory" in text.lower():
        return (
            "OutOfMemoryError: a worker was ended because its node ran out of memory; fewer students at once, a "
            "smaller train.micro_tokens or teachers.*.score_tokens, or more memory (see `stillhouse plan`)"
        )
    lines = [line.strip() for line in text.strip().splitlines() if line.strip()]
    named = [line for line in lines if "Error" in line.split(":")[0] and ":" in line and not line.startswith("File")]
    return (named or lines or ["unknown error"])[-1]
