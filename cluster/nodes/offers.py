"""What nodes of a kind are called where they are had: instance types, products, accelerators. Nothing is guessed: what
the tables lack, `cluster.node_kinds` says, or it is refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from cluster.config import NodeKindConfig
from cluster.nodes.kinds import NodeKind, share_of

Where = Literal["kubernetes", "aws", "gcp", "skypilot"]


@dataclass(frozen=True)
class Offer:
    """One node that can be had. Bytes for memory."""

    name: str | None
    """Instance type, or the name of its GPUs; None where nothing is called by a name (pods without GPUs)."""
    cpus: int
    memory: int
    efa: int = 0
    """EC2's Elastic Fabric Adapters of a whole node."""


_Table = dict[tuple[str, int], Offer]


def _table(*rows: tuple[str, int, str, int, int, int]) -> _Table:
    """Rows of kind, GPUs, name, virtual CPUs, GiB of memory, EFA interfaces; by kind and GPUs."""
    return {(kind, gpus): Offer(name, cpus, gib << 30, efa) for kind, gpus, name, cpus, gib, efa in rows}


_AWS = _table(
    # As `aws ec2 describe-instance-types` has them.
    ("h100", 8, "p5.48xlarge", 192, 2048, 32),
    ("h100", 1, "p5.4xlarge", 16, 256, 1),
    ("h200", 8, "p5en.48xlarge", 192, 2048, 16),
    ("b200", 8, "p6-b200.48xlarge", 192, 2048, 8),
    ("a100-40", 8, "p4d.24xlarge", 96, 1152, 4),
    ("a100-80", 8, "p4de.24xlarge", 96, 1152, 4),
    ("l40s", 8, "g6e.48xlarge", 192, 1536, 4),
    ("l40s", 4, "g6e.12xlarge", 48, 384, 1),
    ("l40s", 1, "g6e.4xlarge", 16, 128, 0),
    ("l4", 8, "g6.48xlarge", 192, 768, 1),
    ("l4", 4, "g6.12xlarge", 48, 192, 1),
    ("l4", 1, "g6.4xlarge", 16, 64, 0),
    ("a10g", 8, "g5.48xlarge", 192, 768, 1),
    ("a10g", 4, "g5.12xlarge", 48, 192, 1),
    ("a10g", 1, "g5.4xlarge", 16, 64, 0),
)

_GCP = _table(
    # As Compute Engine's pages on accelerator-optimised machines have them.
    *(("h100", n, f"a3-highgpu-{n}g", 26 * n, 234 * n, 0) for n in (1, 2, 4, 8)),
    ("h200", 8, "a3-ultragpu-8g", 224, 2952, 0),
    ("b200", 8, "a4-highgpu-8g", 224, 3968, 0),
    *(("a100-40", n, f"a2-highgpu-{n}g", 12 * n, 85 * n, 0) for n in (1, 2, 4, 8)),
    *(("a100-80", n, f"a2-ultragpu-{n}g", 12 * n, 170 * n, 0) for n in (1, 2, 4, 8)),
    ("l4", 1, "g2-standard-12", 12, 48, 0),
    ("l4", 2, "g2-standard-24", 24, 96, 0),
    ("l4", 4, "g2-standard-48", 48, 192, 0),
    ("l4", 8, "g2-standard-96", 96, 384, 0),
)

_CPU_SIZES: dict[str, dict[int, str]] = {
    "aws": {8: "m7i.2xlarge", 16: "m7i.4xlarge", 32: "m7i.8xlarge", 64: "m7i.16xlarge"},
    "gcp": {8: "n2-standard-8", 16: "n2-standard-16", 32: "n2-standard-32", 64: "n2-standard-64"},
    "kubernetes": {},
    "skypilot": {},
}
"""Names of nodes without GPUs by their virtual CPUs, with 4 GiB of memory each; the largest is the kind `cpu`."""

_GIB_A_CPU = 4

_PRODUCTS = {
    # The device's name with - for spaces, as NVIDIA's GPU feature discovery labels a node.
    "h100": "NVIDIA-H100-80GB-HBM3",
    "h200": "NVIDIA-H200",
    "b200": "NVIDIA-B200",
    "a100-40": "NVIDIA-A100-SXM4-40GB",
    "a100-80": "NVIDIA-A100-SXM4-80GB",
    "l40s": "NVIDIA-L40S",
    "l4": "NVIDIA-L4",
    "a10g": "NVIDIA-A10G",
}

_SKYPILOT = {
    **{"h100": "H100", "h200": "H200", "b200": "B200", "a100-40": "A100", "a100-80": "A100-80GB"},
    **{"l40s": "L40S", "l4": "L4", "a10g": "A10G"},
}

_POD = 7 / 8
"""Of a Kubernetes node, what pods are given; the rest is the kubelet's, its daemons' and the system's."""

_CALLED = {"aws": "EC2", "gcp": "Compute Engine", "kubernetes": "Kubernetes", "skypilot": "SkyPilot"}
_KEYS = {"aws": "aws", "gcp": "gcp", "kubernetes": "gpu_product", "skypilot": "skypilot"}
_EXAMPLES = {"aws": "g6e.12xlarge", "gcp": "g2-standard-48", "kubernetes": "NVIDIA-L40S", "skypilot": "L40S"}


def offer_of(where: Where, kind: NodeKind, gpus: int, settings: Mapping[str, NodeKindConfig]) -> Offer:
    """A node of a kind with so many GPUs, as `where` has it; `settings` are those of `cluster.node_kinds`. Raises
    ValueError where neither these nor the tables know of one."""
    cpus, memory = share_of(kind, gpus)
    if where == "skypilot" or where == "kubernetes":
        # SkyPilot chooses among clouds whose nodes differ in CPUs and memory: some less than EC2's are counted on.
        efa = _AWS[kind.name, gpus].efa if where == "kubernetes" and (kind.name, gpus) in _AWS else 0
        return Offer(_name_of_gpus(where, kind, gpus, settings), int(cpus * _POD), _gib(memory * _POD), efa)
    own = settings.get(kind.name)
    given = getattr(own, where) if own is not None else None
    if given and gpus in given:
        return Offer(given[gpus], int(cpus), memory)
    table = _AWS if where == "aws" else _GCP
    if (kind.name, gpus) in table:
        return table[kind.name, gpus]
    if kind.name == "cpu" and (name := _CPU_SIZES[where].get(int(cpus))) is not None:
        return Offer(name, int(cpus), memory)
    there = [f"{name}:{n} ({offer.name})" for (name, n), offer in table.items() if name == kind.name]
    raise ValueError(
        f"cluster.node_kinds.{kind.name}.{where}: {_CALLED[where]} has no node of {kind.name} with {gpus} GPUs as far "
        f"as is known here; say what it is called, for example {{{gpus}: {_EXAMPLES[where]}}}"
        + (f", or take {' or '.join(there)}" if there else ", or name another kind")
    )


def cpu_offers(where: Where, kind: NodeKind, settings: Mapping[str, NodeKindConfig]) -> list[Offer]:
    """Nodes without GPUs, the smallest first: of the kind `cpu` also parts of it, of others the kind itself."""
    whole = offer_of(where, kind, 0, settings)
    own = settings.get(kind.name)
    if kind.name != "cpu" or own is not None:
        return [whole]
    sizes = [n for n in sorted(_CPU_SIZES["aws"]) if n < kind.cpus and n >= 16]
    if where in ("kubernetes", "skypilot"):
        smaller = [Offer(None, int(n * _POD), _gib((n * _GIB_A_CPU << 30) * _POD)) for n in sizes]
    else:
        smaller = [Offer(_CPU_SIZES[where][n], n, n * _GIB_A_CPU << 30) for n in sizes]
    return [*smaller, whole]


def head_offer(where: Where, memory: int) -> Offer:
    """The smallest node of `where` for a head that holds so many bytes."""
    sizes = [Offer(name, n, n * _GIB_A_CPU << 30) for n, name in sorted(_CPU_SIZES[where].items())]
    return next((offer for offer in sizes if offer.memory >= memory), sizes[-1])


def _name_of_gpus(where: Where, kind: NodeKind, gpus: int, settings: Mapping[str, NodeKindConfig]) -> str | None:
    if not gpus:
        return None
    own = settings.get(kind.name)
    name: str | None = getattr(own, _KEYS[where]) if own is not None else None
    name = name or (_PRODUCTS if where == "kubernetes" else _SKYPILOT).get(kind.name)
    if name is None:
        raise ValueError(
            f"cluster.node_kinds.{kind.name}.{_KEYS[where]}: what {_CALLED[where]} calls the GPUs of {kind.name} is "
            f"not known; say it, for example {_EXAMPLES[where]}"
            + (" (kubectl get nodes -L nvidia.com/gpu.product)" if where == "kubernetes" else " (sky gpus list)")
        )
    return name


def _gib(size: float) -> int:
    """Whole GiB of some bytes, in bytes."""
    return int(size) >> 30 << 30
