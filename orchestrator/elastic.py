"""How many workers a specialist with a range of them can have now: Ray Train's policy, with our count of the room.

Ray's own counts what all nodes have in total, whatever teachers' gangs hold of it and whatever their labels are: it
would wait for places that nobody frees, and give up a working group for them. These are private names of the Ray that
`pyproject.toml` pins.
"""

from __future__ import annotations

from typing import Any

from ray.train.torch import TorchTrainer
from ray.train.v2._internal.execution.scaling_policy import ElasticScalingPolicy, ScalingDecision

from cluster.inventory import cluster_nodes
from cluster.room import places


class RoomPolicy(ElasticScalingPolicy):
    """Grows into what is free on nodes that have the labels."""

    _own = 0
    """Workers that hold places now."""

    def make_decision_for_non_running_worker_group(self) -> ScalingDecision:
        """Of a group that is to be started."""
        self._own = 0
        return super().make_decision_for_non_running_worker_group()

    def make_decision_for_running_worker_group(self, worker_group_state: Any, worker_group_status: Any) -> Any:
        """Of a group that is at work."""
        self._own = worker_group_state.num_workers
        return super().make_decision_for_running_worker_group(worker_group_state, worker_group_status)

    def _count_possible_workers(self, reserved_resources: Any) -> int:
        bundle, selector = self.scaling_config._resources_per_worker_not_none, self.scaling_config.label_selector
        labels = selector[0] if isinstance(selector, list) else selector or {}
        return min(self._own + places(cluster_nodes(), bundle, labels), self.scaling_config.max_workers)


class RoomTrainer(TorchTrainer):
    """A TorchTrainer whose range of workers goes by `RoomPolicy`."""

    def _initialize_and_run_controller(self, **settings: Any) -> Any:
        if self.scaling_config.elasticity_enabled:
            settings["scaling_policy"] = RoomPolicy(self.scaling_config)
        return super()._initialize_and_run_controller(**settings)
