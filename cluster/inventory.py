"""What there is to run on, as plain data: CPUs, accelerators, memory, nodes."""

from __future__ import annotations

import os
from dataclasses import dataclass

import psutil


@dataclass(frozen=True)
class Inventory:
    """Resources of a cluster, or of this machine where no Ray is running yet. Bytes for memory."""

    source: str
    nodes: int
    cpus: float
    gpus: float
    memory: int
    memory_free: int


def local_inventory(cpus: int | None = None) -> Inventory:
    """This machine; `cpus` is the number of logical CPUs that Ray would be started with. Imports no Ray."""
    memory = psutil.virtual_memory()
    devices = os.environ.get("CUDA_VISIBLE_DEVICES")
    if devices is not None:
        gpus = len([d for d in devices.split(",") if d.strip()])
    else:
        gpus = sum(os.path.exists(f"/dev/nvidia{i}") for i in range(16))
    return Inventory("this machine", 1, cpus or len(os.sched_getaffinity(0)), gpus, memory.total, memory.available)


def cluster_inventory() -> Inventory:
    """The Ray cluster this process is connected to."""
    import ray

    nodes = [n for n in ray.nodes() if n["Alive"]]
    total: dict[str, float] = {}
    for node in nodes:
        for name, amount in node["Resources"].items():
            total[name] = total.get(name, 0) + amount
    memory = int(total.get("memory", 0))
    return Inventory("the Ray cluster", len(nodes), total.get("CPU", 0), total.get("GPU", 0), memory, memory)
