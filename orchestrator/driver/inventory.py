"""What a run would have: this machine, or the cluster that it joins."""

from __future__ import annotations

from cluster.inventory import Inventory, cluster_inventory, local_inventory
from cluster.session import check_address
from orchestrator.config.schema import RunConfig


def inventory_for(config: RunConfig, connect: bool) -> Inventory:
    """This machine, or (`connect`) the cluster that the run would join."""
    if not connect:
        return local_inventory(config.cluster.cpus)
    import ray

    cluster = config.cluster.model_copy(update={"address": config.cluster.address or "auto"})
    check_address(cluster)
    ray.init(address=cluster.address, logging_level="ERROR")
    try:
        return cluster_inventory()
    finally:
        ray.shutdown()
