"""What a run would have: this machine, or the cluster that it joins."""

from __future__ import annotations

from cluster.inventory import Inventory, cluster_inventory, local_inventory
from orchestrator.config.schema import RunConfig


def inventory_for(config: RunConfig, connect: bool) -> Inventory:
    """This machine, or (`connect`) the cluster that the run would join."""
    if not connect:
        return local_inventory(config.cluster.cpus)
    import ray

    ray.init(address=config.cluster.address or "auto", logging_level="ERROR")
    try:
        return cluster_inventory()
    finally:
        ray.shutdown()
