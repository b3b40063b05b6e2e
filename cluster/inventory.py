"""What there is to run on, as plain data: CPUs, accelerators, memory, nodes."""

from __future__ import annotations

import os
from dataclasses import dataclass

import psutil

from cluster.ray_internals import free_resources, own_node
from cluster.resources import Node


@dataclass(frozen=True)
class Inventory:
    """Resources of a cluster, or of this machine where no Ray is running yet. Bytes for memory."""

    source: str
    nodes: int
    cpus: float
    gpus: float
    memory: int
    memory_free: int
    members: tuple[Node, ...] = ()
    """The nodes one by one, where they are known."""


def local_inventory(cpus: int | None = None) -> Inventory:
    """This machine; `cpus` is the number of logical CPUs that Ray would be started with. Imports no Ray, but to tell
    which GPUs it has."""
    memory = psutil.virtual_memory()
    devices = os.environ.get("CUDA_VISIBLE_DEVICES")
    if devices is not None:
        gpus = len([d for d in devices.split(",") if d.strip()])
    else:
        gpus = sum(os.path.exists(f"/dev/nvidia{i}") for i in range(16))
    there = (cpus or len(os.sched_getaffinity(0)), gpus, memory.total, memory.available)
    return Inventory("this machine", 1, *there, members=(_own_node(cpus),) if gpus else ())


def _own_node(cpus: int | None) -> Node:
    total, labels = own_node(cpus)
    return Node("this machine", total, total, labels)


def cluster_inventory() -> Inventory:
    """The Ray cluster this process is connected to."""
    members = cluster_nodes()

    def total(name: str) -> float:
        return sum(n.total.get(name, 0) for n in members)

    memory = int(total("memory"))
    return Inventory("the Ray cluster", len(members), total("CPU"), total("GPU"), memory, memory, tuple(members))


def cluster_nodes() -> list[Node]:
    """The living nodes of the Ray cluster this process is connected to, with what is free on each now."""
    import ray

    free = free_resources()
    return [
        Node(n["NodeManagerAddress"], n["Resources"], free.get(n["NodeID"], {}), n.get("Labels") or {})
        for n in ray.nodes()
        if n["Alive"]
    ]
