"""Names of Ray Train's that are private, and may change with any release: all that this program uses.

A test for each (tests/orchestrator/stages/training/test_train_internals.py) fails when it does. Importing this loads
Ray Train, pandas and Ray Data, but no torch: `ray.train.torch` would.
"""

from __future__ import annotations

import asyncio
import os
from typing import Any

from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.constants import (
    DEFAULT_WORKER_GROUP_START_TIMEOUT_S,
    ENABLE_CONTROLLER_STRUCTURED_LOGGING_ENV_VAR,
    ENABLE_PREEMPTION_WATCHER_ENV_VAR,
    WORKER_GROUP_START_TIMEOUT_S_ENV_VAR,
)
from ray.train.v2._internal.execution.controller import TrainController
from ray.train.v2._internal.execution.scaling_policy import (
    ElasticScalingPolicy,
    FixedScalingPolicy,
    ScalingDecision,
)
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

from cluster.inventory import cluster_nodes
from cluster.placement import PlaceDeadline
from cluster.resources import free_slots

_OWN_PROCESSES = (DatasetsCallback, PlacementGroupCleanerCallback)
"""Callbacks that start a process for each group of workers: one deals out datasets, which nobody gives it; the other
frees the group's place if the controller dies, which the driver does."""


def resources_per_worker(scaling_config: Any) -> dict[str, float]:
    """What a worker takes, as Ray Train works it out."""
    return dict(scaling_config._resources_per_worker_not_none)


class ControllerHereTrainer(DataParallelTrainer):
    """A trainer whose controller runs in the thread that calls `fit`, where Ray Train would start an actor for it.

    The thread must be of an actor, which then owns the workers: they end with it. Their place does not (Ray keeps it
    until the job ends), so whoever sees the actor die has to free it.
    """

    def _create_default_callbacks(self) -> list[Any]:
        return [c for c in super()._create_default_callbacks() if not isinstance(c, _OWN_PROCESSES)]

    def _initialize_and_run_controller(self, **settings: Any) -> Any:
        # Each would set up the process's logging anew, and lock up with another that writes its first line meanwhile:
        # one holds `logging`'s lock and wants the handler's, the other the reverse. What they say goes to stderr.
        os.environ[ENABLE_CONTROLLER_STRUCTURED_LOGGING_ENV_VAR] = "0"
        os.environ[ENABLE_PREEMPTION_WATCHER_ENV_VAR] = "0"  # a process a group; workers listen themselves (cadence.py)

        async def run() -> Any:
            controller = TrainController(**settings)
            await controller.run()
            return controller.get_result()

        return asyncio.run(run())


class _WithDeadline:
    """Of a scaling policy: while its workers have no place, their deadline is looked at."""

    def __init__(self, scaling_config: Any, deadline: PlaceDeadline | None = None) -> None:
        super().__init__(scaling_config)  # type: ignore[call-arg]
        self._deadline = deadline

    def make_decision_for_non_running_worker_group(self) -> ScalingDecision:
        """The decision for workers that are to be started. What it raises ends the training."""
        if self._deadline is not None:
            self._deadline.check()
        return super().make_decision_for_non_running_worker_group()  # type: ignore[misc]


class FixedPolicy(_WithDeadline, FixedScalingPolicy):
    """So many workers, as soon as there is room."""


class FreeSlotsPolicy(_WithDeadline, ElasticScalingPolicy):
    """How many workers a specialist with a range of them can have now: those with room on nodes that have the labels.

    Ray Train's own policy counts what all nodes have in total, whatever teachers' replicas hold of it and whatever
    their labels are: it would wait for places that nobody frees, and give up a running group for them.
    """

    _own = 0
    """Workers that hold places now."""

    def make_decision_for_non_running_worker_group(self) -> ScalingDecision:
        """The decision for workers that are to be started. What it raises ends the training."""
        self._own = 0
        return super().make_decision_for_non_running_worker_group()

    def make_decision_for_running_worker_group(self, worker_group_state: Any, worker_group_status: Any) -> Any:
        """The decision for workers that are running."""
        self._own = worker_group_state.num_workers
        return super().make_decision_for_running_worker_group(worker_group_state, worker_group_status)

    def _count_possible_workers(self, reserved_resources: Any) -> int:
        bundle, selector = resources_per_worker(self.scaling_config), self.scaling_config.label_selector
        labels = selector[0] if isinstance(selector, list) else selector or {}
        return min(self._own + free_slots(cluster_nodes(), bundle, labels), self.scaling_config.max_workers)


class FreeSlotsTrainer(ControllerHereTrainer):
    """A trainer whose range of workers goes by `FreeSlotsPolicy`. It gives up at `deadline`: Ray Train alone would ask
    for a place again and again, for ever."""

    deadline: PlaceDeadline | None = None

    def _initialize_and_run_controller(self, **settings: Any) -> Any:
        policy = FreeSlotsPolicy if self.scaling_config.elasticity_enabled else FixedPolicy
        settings["scaling_policy"] = policy(self.scaling_config, self.deadline)
        return super()._initialize_and_run_controller(**settings)


def ask_again_after(seconds: float) -> None:
    """Let workers of this process's trainers wait so long for a place, then look at their deadline and ask again."""
    usual = float(os.environ.get(WORKER_GROUP_START_TIMEOUT_S_ENV_VAR, DEFAULT_WORKER_GROUP_START_TIMEOUT_S))
    os.environ[WORKER_GROUP_START_TIMEOUT_S_ENV_VAR] = str(min(usual, seconds))
