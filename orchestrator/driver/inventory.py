"""What a run would have: this machine, the cluster that it joins, or nodes that are only planned."""

from __future__ import annotations

from cluster.inventory import Inventory, cluster_inventory, local_inventory
from cluster.nodes.kinds import planned_inventory
from cluster.session import check_address
from orchestrator.config.schema import RunConfig


def inventory_for(config: RunConfig, connect: bool, nodes: str | None = None) -> Inventory:
    """This machine, (`connect`) the cluster that the run would join, or (`nodes`) nodes of known kinds, as
    KIND:GPUSxNODES. Raises ValueError."""
    if nodes is not None:
        if connect:
            raise ValueError("--connect, --nodes: plan for the cluster that is there, or for one that is not; give one")
        return planned_inventory(nodes, config.cluster.node_kinds)
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
