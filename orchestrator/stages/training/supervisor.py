"""Training a specialist and what follows it in the same workers: a supervisor, in which trainer and controller run.

Each specialist has one of its own, so that none takes another down with it. It loads Ray Train, but no torch: the
workers do. A training that fails is started again from its last checkpoint, where its settings say so, or reported.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import ray

from cluster.lease import LeaseLost
from cluster.network import network
from cluster.placement import PlaceDeadline
from cluster.storage import Storage, open_storage
from workers.channels.board import Control, Reporter
from workers.channels.events import Message
from workers.channels.messages import StudentRestarted
from workers.failures import Failure, first_failure, last_line
from workers.layout import RAY_TRAIN, StudentLayout
from workers.student.config import TrainConfig
from workers.student.training.cadence import Left
from workers.student.training.learned import Diverged, NothingLearned
from workers.student.training.resources import resource_request
from workers.student.training.train_loop import train_group

NON_RETRYABLE = (Diverged, FloatingPointError, LeaseLost, Left, NothingLearned, ValueError)
"""What a training that resumes to the bit would come to once more."""

LEFT = "it left with a checkpoint, as it was asked to"
"""What `train` returns of a training that was asked to leave."""


@ray.remote(num_cpus=0, max_restarts=0)
class Supervisor:
    """Runs a trainer."""

    def train(self, jobs: list[dict[str, Any]], deadline_s: float = math.inf) -> str | None:
        """Train a group of students, one after another, to their end; returns None, or the first cause of its failure.

        Failures count where no new checkpoint came between them. A place that the cluster has not at all is waited for
        `deadline_s`.
        """
        restarts = TrainConfig.model_validate(jobs[0]["train"]).restarts
        failures = Failures()
        while (failure := _fit(jobs, deadline_s)) is not None:
            if not (restarts and failure.retryable):
                return failure.cause
            progress = progress_marker(open_storage(jobs[0]["run_uri"]), [job["name"] for job in jobs])
            if failures.note(progress) > restarts:
                return failure.cause
            name = next((job["name"] for job, (done, _) in zip(jobs, progress, strict=True) if not done), "")
            again = f"started again from its last checkpoint ({failures.count} of {restarts} times without a new one)"
            Control(jobs[0]["board"])(StudentRestarted(name or jobs[0]["name"]))
            Reporter(jobs[0]["board"])(Message(text=f"{failure.cause}; {again}", student=name))
        return None


@dataclass
class Failures:
    """Counts failures in a row between which there was no progress."""

    count: int = 0
    _before: Any = None

    def note(self, progress: Any) -> int:
        """One more, with how far it had come; returns how many there are in a row."""
        self.count = self.count + 1 if progress == self._before else 1
        self._before = progress
        return self.count


def progress_marker(storage: Storage, names: list[str]) -> list[tuple[bool, list[str]]]:
    """How far students have come: of each whether it is done, and the pointer of its last checkpoint."""
    students = [StudentLayout(name) for name in names]
    return [(storage.exists(s.done), storage.keys(s.pointers)[-1:]) for s in students]


def _fit(jobs: list[dict[str, Any]], deadline_s: float) -> Failure | None:
    """Train what is left of a group, once; returns None, or the cause of its failure."""
    from ray.train import ControllerError, FailureConfig, RunConfig, ScalingConfig, WorkerGroupError

    from orchestrator.stages.training.train_internals import FreeSlotsTrainer, ask_again_after
    from workers.student.training.process_group import ProcessGroup

    train = jobs[0]["train"]
    gpu, (least, most) = train["gpus_per_worker"] > 0, train["workers"]
    resources = {"CPU": train["cpus_per_worker"]} | ({"GPU": train["gpus_per_worker"]} if gpu else {})
    filesystem, path = open_storage(jobs[0]["run_uri"]).arrow_filesystem(RAY_TRAIN)
    trainer = FreeSlotsTrainer(
        train_group,
        train_loop_config={"jobs": jobs},
        backend_config=ProcessGroup(
            "nccl" if gpu else "gloo",
            network().collective_s,
            board=jobs[0]["board"],
            run_uri=jobs[0]["run_uri"],
            students=tuple(job["name"] for job in jobs),
        ),
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
    request = resource_request(TrainConfig.model_validate(train))
    trainer.deadline = PlaceDeadline(request, f"specialist {jobs[0]['name']}", deadline_s)
    ask_again_after(deadline_s)
    try:
        trainer.fit()
    except WorkerGroupError as error:
        if any(isinstance(failure, Left) for failure in error.worker_failures.values()):
            return Failure(LEFT, False)
        return first_failure(list(error.worker_failures.values()), NON_RETRYABLE) or Failure(
            last_line(str(error)), True
        )
    except ControllerError as error:
        if isinstance(error.controller_failure, TimeoutError):
            return Failure(str(error.controller_failure), False)
        return Failure(last_line(str(error)), True)
    return None
