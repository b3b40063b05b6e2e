"""A gang: rank actors in one placement group that form one process group and act as one model.

It runs texts and knows nothing of Ray Data, units or stores; the on-policy service to come leads gangs too.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from typing import Any

import numpy as np
import ray
from ray.util.placement_group import remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from cluster.placement import gang_bundles, place_gang
from workers.targets.arrays import UnitTargets
from workers.teacher.config import TeacherConfig
from workers.teacher.engine import CaptureSpec, TextRequest
from workers.teacher.engines import load_engine, rank_environment


@ray.remote(max_restarts=0)
class GangRank:
    """One process of a gang. Torch is loaded here and nowhere above."""

    def __init__(self, rank: int, device: str) -> None:
        self._rank = rank
        # transformers loads DeepSpeed where it is installed, which else looks for an accelerator and says so.
        os.environ.setdefault("DS_ACCELERATOR", device)

    def address(self) -> tuple[str, int]:
        """This node's address and a free port, for the rendezvous at rank 0."""
        with socket.socket() as probe:
            probe.bind(("", 0))
            return ray.util.get_node_ip_address(), probe.getsockname()[1]

    def start(self, config: TeacherConfig, ranks: int, address: str, port: int) -> dict[str, Any]:
        """Join the process group and load this rank's part of the model; returns what the engine says of itself."""
        import torch

        device = "cuda" if config.gpus_per_rank > 0 else "cpu"
        torch.set_num_threads(config.threads_per_rank)
        self._engine = load_engine(config, rank=self._rank, ranks=ranks, device=device, address=address, port=port)
        return self._engine.describe()

    def run(self, requests: list[TextRequest], spec: CaptureSpec) -> UnitTargets:
        """This rank's share of `Gang.run`."""
        return self._engine.run(requests, spec)


class Gang:
    """`ep_size` ranks as one model. Made (and so placed) in the actor that leads it, and freed with it."""

    def __init__(self, name: str, config: TeacherConfig, *, deadline_s: float, say: Callable[[str], None]) -> None:
        self.config, self.ranks = config, config.ep_size
        bundles = gang_bundles(self.ranks, config.cpus_per_rank, config.gpus_per_rank)
        self._group = place_gang(
            bundles,
            strategy=config.placement,
            labels=config.label_selector,
            deadline_s=deadline_s,
            say=say,
            what=f"teacher {name}",
        )
        self._ranks: list[Any] = []

    def start(self) -> list[dict[str, Any]]:
        """Load the model on all ranks; returns what each rank's engine says of itself."""
        self._ranks = [self._rank_actor(i) for i in range(self.ranks)]
        address, port = ray.get(self._ranks[0].address.remote())
        return ray.get([r.start.remote(self.config, self.ranks, address, port) for r in self._ranks])

    def run(self, requests: list[TextRequest], spec: CaptureSpec) -> UnitTargets:
        """Make or score texts on all ranks; rows in the order of the requests. A dead rank raises RayActorError."""
        if self.config.dispatch == "all_reduce" or self.ranks == 1:
            return ray.get([r.run.remote(requests, spec) for r in self._ranks])[0]
        shares = [list(range(rank, len(requests), self.ranks)) for rank in range(self.ranks)]
        results = ray.get(
            [r.run.remote([requests[i] for i in s], spec) for r, s in zip(self._ranks, shares, strict=True)]
        )
        place = np.array([i for share in shares for i in share])
        return UnitTargets.join(results).select(np.argsort(place))

    def close(self) -> None:
        """End the ranks and free their place."""
        for rank in self._ranks:
            ray.kill(rank)
        remove_placement_group(self._group)

    def _rank_actor(self, index: int) -> Any:
        strategy = PlacementGroupSchedulingStrategy(self._group, placement_group_bundle_index=index)
        return GangRank.options(  # type: ignore[attr-defined]
            num_cpus=self.config.cpus_per_rank,
            num_gpus=self.config.gpus_per_rank,
            scheduling_strategy=strategy,
            runtime_env=rank_environment(self.config),
        ).remote(index, "cuda" if self.config.gpus_per_rank else "cpu")
