"""Training the specialists at once: one supervisor actor, a thread and a TorchTrainer for each.

One that fails is started again from its last checkpoint, where its settings say so, or reported alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ray

from cluster.lease import LeaseLost
from cluster.storage import open_storage
from workers.progress import Reporter
from workers.student.config import TrainConfig
from workers.student.train_loop import train_chain

_AGAIN_IN_VAIN = (FloatingPointError, LeaseLost, ValueError)
"""What a training that goes on to the bit would come to once more."""

_COLLECTIVE_S = 4 * 3600
"""Seconds that ranks wait for each other: rank 0 alone writes final models and converts checkpoints, which may be
large. A rank that died is noticed by Ray, long before."""


@dataclass(frozen=True)
class Failure:
    """Why a training ended, and whether another try may end otherwise."""

    cause: str
    worth_another: bool


@ray.remote(num_cpus=0, max_restarts=0)
class Supervisor:
    """Runs trainers, one per call; calls run in threads of this actor, so that they train at the same time."""

    def train(self, jobs: list[dict[str, Any]]) -> str | None:
        """Train a chain of students to its end; returns None, or the first cause of its failure."""
        restarts = TrainConfig.model_validate(jobs[0]["train"]).restarts
        failures, before = 0, None
        while (failure := _fit(jobs)) is not None:
            if not (restarts and failure.worth_another):
                return failure.cause
            stands = _stands(jobs)
            failures, before = (failures + 1 if stands == before else 1), stands
            if failures > restarts:
                return failure.cause
            name = next((job["name"] for job, (done, _) in zip(jobs, stands, strict=True) if not done), jobs[0]["name"])
            again = f"started again from its last checkpoint ({failures} of {restarts} times without a new one)"
            Reporter(jobs[0]["progress"], student=name)("notice", text=f"{failure.cause}; {again}", restarts=True)
        return None


def _stands(jobs: list[dict[str, Any]]) -> list[tuple[bool, list[str]]]:
    """How far a chain has come: of each student, whether it is done, and the pointer of its last checkpoint."""
    storage = open_storage(jobs[0]["run_uri"])
    roots = [f"students/{job['name']}" for job in jobs]
    return [(storage.exists(f"{root}/done.json"), storage.keys(f"{root}/log")[-1:]) for root in roots]


def _fit(jobs: list[dict[str, Any]]) -> Failure | None:
    """Train what is left of a chain, once; returns None, or the cause of its failure."""
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig
    from ray.train.v2.api.exceptions import ControllerError, WorkerGroupError

    from orchestrator.elastic import RoomTrainer

    train = jobs[0]["train"]
    gpu, (least, most) = train["gpus_per_worker"] > 0, train["workers"]
    resources = {"CPU": train["cpus_per_worker"]} | ({"GPU": train["gpus_per_worker"]} if gpu else {})
    filesystem, path = open_storage(jobs[0]["run_uri"]).arrow_filesystem("ray_train")
    trainer = RoomTrainer(
        train_chain,
        train_loop_config={"jobs": jobs},
        torch_config=TorchConfig(backend="nccl" if gpu else "gloo", timeout_s=_COLLECTIVE_S),
        scaling_config=ScalingConfig(
            num_workers=least if least == most else (least, most),
            use_gpu=gpu,
            resources_per_worker=resources,
            label_selector=train["label_selector"] or None,
            elastic_resize_monitor_interval_s=train["resize_s"],
        ),
        run_config=RunConfig(
            name=jobs[0]["name"],
            storage_path=path,
            storage_filesystem=filesystem,
            failure_config=FailureConfig(max_failures=0),
        ),
    )
    try:
        trainer.fit()
    except WorkerGroupError as error:
        return first_failure(list(error.worker_failures.values())) or Failure(root_cause(str(error)), True)
    except ControllerError as error:
        return Failure(root_cause(str(error)), True)
    return None


def first_failure(errors: list[Exception]) -> Failure | None:
    """Of what the ranks ended with, what the others follow from: an error of the training itself, else a death, else
    any. None if there is nothing."""
    own = [Failure(root_cause(_named(e)), False) for e in errors if isinstance(e, _AGAIN_IN_VAIN)]
    deaths = [Failure(_death(e), True) for e in errors if "HealthCheck" in type(e).__name__]
    others = [Failure(root_cause(_named(e)), True) for e in errors]
    return next(iter([*own, *deaths, *others]), None)


def _named(error: Exception) -> str:
    """What an error says, with the name of its class in front, as a traceback's last line has it."""
    return f"{type(error).__name__}: {error}"


def _death(error: Exception) -> str:
    cause = root_cause(str(error) or type(error).__name__)
    return cause if cause.startswith("OutOfMemoryError") else f"a worker died, or its node was lost: {cause}"


def root_cause(text: str) -> str:
    """The last line of a traceback that names an error: what a person looks for."""
    if "low on memory" in text or "ran out of memory" in text:
        return (
            "OutOfMemoryError: a worker was ended because its node ran out of memory; fewer students at once, a "
            "smaller train.micro_tokens or teachers.*.score_tokens, or more memory (see `stillhouse plan`)"
        )
    if "out of memory" in text.lower():
        return (
            "OutOfMemoryError: an accelerator's memory was not enough; a smaller train.micro_tokens, "
            "train.gradient_checkpointing, a higher train.zero, or more workers"
        )
    lines = [line.strip() for line in text.strip().splitlines() if line.strip()]
    named = [line for line in lines if "Error" in line.split(":")[0] and ":" in line and not line.startswith("File")]
    return (named or lines or ["unknown error"])[-1]
