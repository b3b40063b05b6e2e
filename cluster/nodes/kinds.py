"""Kinds of nodes: what a node of each has, so that a run can be planned for nodes that are not there."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from cluster.config import NodeKindConfig
from cluster.inventory import Inventory
from cluster.resources import ACCELERATOR, MEMORY, Node

ROLE = "stillhouse-role"
"""The Ray label of a node for what it is there for: head, teacher, student, cpu."""

TYPE_LABEL = "ray.io/accelerator-type"
"""Ray's label of a node for its type of accelerator."""

_NAMES = {"gpu_product", "aws", "gcp", "skypilot"}
"""What others call nodes of a kind (offers.py); not part of what they have."""

MOST_NODES = 4096
"""Nodes of one plan."""

_SHOWN = 60
"""Characters of a wrong word that its error repeats."""

_FORM = "KIND:GPUSxNODES, the GPUs of a node and the number of nodes, for example h100:8x2 or cpu:0x3"

_ITEM = re.compile(r"([^\s:,]+):([0-9]{1,4})x([0-9]{1,6})")


@dataclass(frozen=True)
class NodeKind:
    """What a whole node of a kind has. Bytes for memory."""

    name: str
    gpu_memory: int
    """Of one GPU; 0 without GPUs."""
    host_memory: int
    cpus: float
    gpus: int | None
    """GPUs of a whole node, of which each goes with an equal share of CPUs and host memory; 0 for nodes without. None:
    nodes with any number of GPUs have the same CPUs and host memory."""
    accelerator_type: str | None = None
    """Ray's name of its GPUs."""
    labels: Mapping[str, str] = field(default_factory=dict)
    bf16_tflops: float | None = None
    """TFLOP/s of one GPU in bfloat16, dense; None where that is not known."""
    memory_bandwidth: float | None = None
    """Bytes a second of one GPU; None likewise."""


@dataclass(frozen=True)
class PlannedNode(Node):
    """A node of a known kind, which need not be there."""

    kind: NodeKind


def _kind(
    name: str, gpu_gb: int, host_gib: int, cpus: int, gpus: int, accelerator: str, tflops: float, gb_per_s: int
) -> NodeKind:
    sizes = (gpu_gb * 10**9, host_gib << 30, cpus, gpus)
    return NodeKind(name, *sizes, accelerator, bf16_tflops=tflops, memory_bandwidth=gb_per_s * 1e9)


KINDS = {
    kind.name: kind
    for kind in (
        # GPU memory as the maker's data sheets say (GB; the devices report a little more), host memory (GiB) and
        # virtual CPUs of Amazon EC2's node of eight: p5, p5en, p6-b200, p4d, p4de, g6e, g6, g5 (.48xlarge; .24xlarge
        # for p4d and p4de). `cpu` is m7i.16xlarge. Then TFLOP/s in bfloat16, dense, and GB/s, of Nvidia's data sheets
        # of the H100, H200 and A100 (SXM), DGX B200 (of eight: 18 PFLOP/s, 64 TB/s), L40S, L4 and A10G; where they
        # give FLOP/s with sparsity (H100, H200, B200, L4), half of that.
        _kind("h100", 80, 2048, 192, 8, "H100", 989, 3350),
        _kind("h200", 141, 2048, 192, 8, "H200", 989, 4800),
        _kind("b200", 180, 2048, 192, 8, "B200", 2250, 8000),
        _kind("a100-40", 40, 1152, 96, 8, "A100", 312, 1555),
        _kind("a100-80", 80, 1152, 96, 8, "A100", 312, 2039),
        _kind("l40s", 48, 1536, 192, 8, "L40S", 362, 864),
        _kind("l4", 24, 768, 192, 8, "L4", 121, 300),
        _kind("a10g", 24, 768, 192, 8, "A10G", 70, 600),
        NodeKind("cpu", 0, 256 << 30, 64, 0),
    )
}
"""Known kinds by name; `cluster.node_kinds` adds others and changes these."""


def node_kinds(settings: Mapping[str, NodeKindConfig]) -> dict[str, NodeKind]:
    """The known kinds, with what `cluster.node_kinds` says of them and of others. Raises ValueError for a new kind that
    lacks a size."""
    kinds = dict(KINDS)
    for name, own in settings.items():
        given = {key: value for key, value in own.model_dump(exclude=_NAMES).items() if value is not None}
        known = vars(KINDS[name]) if name in KINDS else {"name": name, "gpus": None}
        if given.get("gpus") == 0:
            given.setdefault("gpu_memory", 0)
        merged = {**known, **given}
        for key in ("gpu_memory", "host_memory", "cpus"):
            if key not in merged:
                raise ValueError(
                    f"cluster.node_kinds.{name}.{key}: is missing, and {name!r} is not a known kind "
                    f"({', '.join(KINDS)}); give it"
                )
        kinds[name] = NodeKind(**merged)
    return kinds


def kind_of(node: Node, kinds: Mapping[str, NodeKind]) -> NodeKind | None:
    """That of a node which is there, by its type of accelerator: of several (A100s have 40 or 80 GB) the one with most
    memory. None where none has that type."""
    types = node.accelerators()
    return max((k for k in kinds.values() if k.accelerator_type in types), key=lambda k: k.gpu_memory, default=None)


def planned_inventory(text: str, settings: Mapping[str, NodeKindConfig]) -> Inventory:
    """The cluster that `KIND:GPUSxNODES[,...]` describes; `settings` are those of `cluster.node_kinds`. Raises
    ValueError."""
    nodes: list[PlannedNode] = []
    for kind, gpus, count in _parsed(text, node_kinds(settings)):
        if len(nodes) + count > MOST_NODES:
            raise ValueError(f"--nodes: more than {MOST_NODES:,} nodes; a plan has at most as many, name fewer")
        before = sum(node.kind.name == kind.name for node in nodes)
        nodes += [planned_node(kind, gpus, before + i + 1, *share_of(kind, gpus)) for i in range(count)]
    return inventory_of(f"planned nodes {','.join(item.strip() for item in text.split(','))}", nodes)


def inventory_of(source: str, nodes: Sequence[PlannedNode]) -> Inventory:
    """A cluster of nodes that need not be there; `source` says in words which."""

    def total(name: str) -> float:
        return sum(node.total.get(name, 0) for node in nodes)

    memory = int(total(MEMORY))
    return Inventory(source, len(nodes), total("CPU"), total("GPU"), memory, memory, tuple(nodes))


def share_of(kind: NodeKind, gpus: int) -> tuple[float, int]:
    """CPUs and bytes of host memory that go with so many GPUs of a kind; all of them where it has none."""
    share = gpus / kind.gpus if kind.gpus else 1.0
    return kind.cpus * share, int(kind.host_memory * share)


def planned_node(kind: NodeKind, gpus: int, number: int, cpus: float, memory: int) -> PlannedNode:
    """A node of a kind with so many GPUs and CPUs, and bytes of host memory."""
    total = {"CPU": cpus, MEMORY: float(memory)}
    labels = dict(kind.labels)
    if gpus:
        total["GPU"] = float(gpus)
        if kind.accelerator_type is not None:
            total[ACCELERATOR + kind.accelerator_type] = 1.0
            labels.setdefault(TYPE_LABEL, kind.accelerator_type)
    return PlannedNode(f"{kind.name}-{number}", total, total, labels, kind)


def _parsed(text: str, kinds: Mapping[str, NodeKind]) -> Iterator[tuple[NodeKind, int, int]]:
    for item in text.split(","):
        found = _ITEM.fullmatch(item.strip())
        if found is None:
            raise ValueError(f"--nodes: {item.strip()[:_SHOWN]!r} is not {_FORM}")
        name, gpus, count = found[1], int(found[2]), int(found[3])
        if count == 0:
            raise ValueError(f"--nodes: {name}:{gpus}x{count} is no node; give {_FORM}")
        yield known_kind(name, gpus, kinds, f"x{count}"), gpus, count


def known_kind(name: str, gpus: int, kinds: Mapping[str, NodeKind], count: str = "") -> NodeKind:
    """The kind of that name, whose nodes may have so many GPUs; `count` is what stands behind them on the command line.
    Raises ValueError."""
    if name not in kinds:
        near = difflib.get_close_matches(name.lower()[:_SHOWN], kinds, 1, 0.6)
        raise ValueError(
            f"--nodes: {name[:_SHOWN]!r} is no known kind of node"
            + (f"; did you mean {near[0]!r}?" if near else "")
            + f" There are {', '.join(sorted(kinds))}; cluster.node_kinds may say more"
        )
    kind, where = kinds[name], f"--nodes: {name}:{gpus}{count}"
    if kind.gpus == 0 and gpus:
        raise ValueError(f"{where}: nodes of {name} have no GPU; write {name}:0{count}, or name another kind")
    if gpus == 0 and kind.gpus != 0:
        raise ValueError(f"{where}: nodes of {name} have GPUs; write cpu:0{count} for nodes without")
    if kind.gpus is not None and gpus > kind.gpus:
        raise ValueError(
            f"{where}: a node of {name} has {kind.gpus} GPUs; give at most as many, or say otherwise in "
            f"cluster.node_kinds.{name}.gpus"
        )
    return kind
