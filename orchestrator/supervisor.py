"""Training the specialists at once: one supervisor actor, a thread and a TorchTrainer for each.

One that fails is started again from its last checkpoint, where its settings say so, or reported alone.
"""

from __future__ import annotations

import os
from typing import Any

import ray

from cluster.storage import open_storage
from workers.progress import Reporter
from workers.student.config import TrainConfig
from workers.student.train_loop import train_chain

_AGAIN_IN_VAIN = ("FloatingPointError", "LeaseLost", "ValueError", "DamagedShard")
"""What a training that goes on to the bit would come to once more."""

_ELASTIC_START_S = "60"
"""Seconds in which workers have to start. A node that was just lost is counted as room for that long."""


@ray.remote(num_cpus=0, max_restarts=0)
class Supervisor:
    """Runs trainers, one per call; calls run in threads of this actor, so that they train at the same time."""

    def train(self, jobs: list[dict[str, Any]]) -> str | None:
        """Train a chain of students to its end; returns None, or the first cause of its failure."""
        restarts = TrainConfig.model_validate(jobs[0]["train"]).restarts
        failures, before = 0, None
        while (cause := _fit(jobs)) is not None:
            stands = _stands(jobs)
            failures, before = (failures + 1 if stands == before else 1), stands
            if failures > restarts or _kind(cause) in _AGAIN_IN_VAIN:
                return cause
            name = next((job["name"] for job, (done, _) in zip(jobs, stands, strict=True) if not done), jobs[0]["name"])
            text = f"{cause}; started again from its last checkpoint ({failures} of {restarts} times without a new one)"
            Reporter(jobs[0]["progress"], student=name)("notice", text=text)
        return None


def _stands(jobs: list[dict[str, Any]]) -> list[tuple[bool, list[str]]]:
    """How far a chain has come: of each student, whether it is done, and the pointer of its last checkpoint."""
    storage = open_storage(jobs[0]["run_uri"])
    roots = [f"students/{job['name']}" for job in jobs]
    return [(storage.exists(f"{root}/done.json"), storage.keys(f"{root}/log")[-1:]) for root in roots]


def _fit(jobs: list[dict[str, Any]]) -> str | None:
    """Train what is left of a chain, once; returns None, or the cause of its failure."""
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer
    from ray.train.v2.api.exceptions import ControllerError, WorkerGroupError

    train = jobs[0]["train"]
    gpu, (least, most) = train["gpus_per_worker"] > 0, train["workers"]
    resources = {"CPU": train["cpus_per_worker"]} | ({"GPU": train["gpus_per_worker"]} if gpu else {})
    filesystem, path = open_storage(jobs[0]["run_uri"]).arrow_filesystem("ray_train")
    if most > least:
        os.environ["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] = _ELASTIC_START_S
    trainer = TorchTrainer(
        train_chain,
        train_loop_config={"jobs": jobs},
        torch_config=TorchConfig(backend="nccl" if gpu else "gloo"),
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
        return _first_told(error)
    except ControllerError as error:
        return _root_cause(str(error))
    return None


def _first_told(error: Any) -> str:
    """The failure that the others follow from: an error of the training itself, else a death, else any."""
    failures = list(error.worker_failures.values())
    causes = [_root_cause(str(e) or type(e).__name__) for e in failures]
    own = [c for c in causes if _kind(c) in _AGAIN_IN_VAIN]
    deaths = [c for c, e in zip(causes, failures, strict=True) if "HealthCheck" in type(e).__name__]
    told = [c if c.startswith("OutOfMemoryError") else f"a worker died, or its node was lost: {c}" for c in deaths]
    return next(iter([*own, *told, *causes]), _root_cause(str(error)))


def _kind(cause: str) -> str:
    """The name of an error's class, without its module."""
    return cause.split(":")[0].rsplit(".", 1)[-1]


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
