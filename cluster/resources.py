"""Whether a group of processes finds room on some nodes, and if not, what it lacks, in words. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

ACCELERATOR = "accelerator_type:"
"""Ray names a type of accelerator as a resource, of which a node has 1 and each user takes a thousandth."""


MEMORY = "memory"
"""Ray's name of main memory, counted in bytes."""


@dataclass(frozen=True)
class Node:
    """One node of a cluster: resources by Ray's names, and labels."""

    address: str
    total: Mapping[str, float]
    free: Mapping[str, float]
    labels: Mapping[str, str]

    def accelerators(self) -> list[str]:
        """Types of accelerator on this node."""
        return [name.removeprefix(ACCELERATOR) for name in self.total if name.startswith(ACCELERATOR)]


@dataclass(frozen=True)
class ResourceRequest:
    """What a group of processes asks for: one bundle of resources each, how they are laid out, and labels of
    nodes."""

    bundles: tuple[Mapping[str, float], ...]
    strategy: str
    labels: Mapping[str, str]

    def __str__(self) -> str:
        labels = f" on nodes with {words(self.labels)}" if self.labels else ""
        return f"{len(self.bundles)} x {words(self.bundles[0])} ({self.strategy}){labels}"


def group_request(
    ranks: int, cpus: float, gpus: float, strategy: str, labels: Mapping[str, str], accelerator_type: str | None = None
) -> ResourceRequest:
    """One equal bundle per rank."""
    bundle = {"CPU": cpus} | ({"GPU": gpus} if gpus else {})
    if accelerator_type:
        bundle[ACCELERATOR + accelerator_type] = 0.001
    return ResourceRequest((bundle,) * ranks, strategy, labels)


def infeasible_reason(request: ResourceRequest, nodes: Iterable[Node]) -> str | None:
    """Why a group of processes would find no place even if nothing else ran on these nodes, or None if it would."""
    nodes = list(nodes)
    bundle, ranks = request.bundles[0], len(request.bundles)
    if problem := _label_problem(request.labels, nodes):
        return problem
    nodes = [n for n in nodes if matches(n.labels, request.labels)]
    for name in bundle:
        if name.startswith(ACCELERATOR) and not any(name in n.total for n in nodes):
            types = sorted({t for n in nodes for t in n.accelerators()})
            return f"no node has accelerators of type {name.removeprefix(ACCELERATOR)}; there are {types or 'none'}"
    fits = [bundles_on(n.total, bundle) for n in nodes]
    for name, amount in bundle.items():
        if not name.startswith(ACCELERATOR) and max(n.total.get(name, 0) for n in nodes) < amount:
            wanted = words({name: amount})
            return f"one process wants {wanted}, the largest node has {_largest(nodes, name)}"
    if request.strategy == "STRICT_PACK" and max(fits) < ranks:
        name = max(bundle, key=lambda r: bundle[r] * ranks / (_most(nodes, r) or 1e-9))
        return f"{bundle[name] * ranks:g} {name} are wanted on one node, the largest node has {_largest(nodes, name)}"
    if request.strategy == "STRICT_SPREAD" and sum(f > 0 for f in fits) < ranks:
        return f"{ranks} nodes are wanted, one for each process; {sum(f > 0 for f in fits)} have room for one"
    if sum(fits) < ranks:
        return f"there is room for {sum(fits)} of its {ranks} processes on {len(nodes)} nodes, were they empty"
    return None


def matches(labels: Mapping[str, str], wanted: Mapping[str, str]) -> bool:
    """Whether a node's labels meet a selector of Ray's: `value`, `!value`, `in(a, b)` or `!in(a, b)`."""
    return all(_meets(labels.get(key), value) for key, value in wanted.items())


def others_than(selectors: Iterable[Mapping[str, str]]) -> dict[str, str]:
    """A selector of nodes that none of some selectors asks for. One that only says what nodes must not be is passed
    over."""
    avoided: dict[str, set[str]] = {}
    for selector in selectors:
        asked = {key: value for key, value in selector.items() if not value.startswith("!")}
        for key, value in list(asked.items())[:1]:  # a node that differs in one label is another one
            avoided.setdefault(key, set()).update(choice(value))
    return {key: f"!in({','.join(sorted(values))})" for key, values in avoided.items()}


def free_slots(nodes: Iterable[Node], bundle: Mapping[str, float], labels: Mapping[str, str]) -> int:
    """How many processes of equal resources find room in what is free now, on nodes with the labels."""
    return sum(bundles_on(node.free, bundle) for node in nodes if matches(node.labels, labels))


def words(resources: Mapping[str, object]) -> str:
    """Resources or labels for a person: `1 CPU + 2 GPU`."""
    parts = []
    for name, amount in resources.items():
        if name.startswith(ACCELERATOR):
            parts.append(f"an accelerator of type {name.removeprefix(ACCELERATOR)}")
        elif name == MEMORY and isinstance(amount, int | float):
            parts.append(f"{amount / 1e9:.1f} GB of memory")
        else:
            parts.append(f"{amount:g} {name}" if isinstance(amount, int | float) else f"{name}={amount}")
    return " + ".join(parts)


def table(nodes: Iterable[Node]) -> str:
    """What each node has and what of it is free, in one line."""
    nodes = list(nodes)
    shown = [f"{n.address}: {_of_node(n)}" for n in nodes[:_SHOWN]]
    more = [f"and {len(nodes) - _SHOWN} nodes more"] if len(nodes) > _SHOWN else []
    return "; ".join(shown + more) or "no node"


_SHOWN = 8
"""Nodes of a large cluster that a message names."""


def _of_node(node: Node) -> str:
    parts = [f"{node.free.get(k, 0):g} of {node.total[k]:g} {k} free" for k in ("CPU", "GPU") if node.total.get(k)]
    return ", ".join(parts + [f"type {t}" for t in node.accelerators()]) or "nothing"


def _label_problem(labels: Mapping[str, str], nodes: list[Node]) -> str | None:
    if not nodes:
        return "the cluster has no node"
    if any(matches(n.labels, labels) for n in nodes):
        return None
    for key, value in labels.items():
        if not any(matches(n.labels, {key: value}) for n in nodes):
            there = sorted({n.labels[key] for n in nodes if key in n.labels})
            return f"no node has the label {key}={value}; there are {there or 'none of that name'}"
    return f"no node has all of the labels {words(labels)}"


def _meets(have: str | None, wanted: str) -> bool:
    return (have in choice(wanted.removeprefix("!"))) is not wanted.startswith("!")


def choice(value: str) -> list[str]:
    """The values that `value` or `in(a, b)` of a selector names."""
    if value.startswith("in(") and value.endswith(")"):
        return [v.strip() for v in value[3:-1].split(",")]
    return [value]


def bundles_on(resources: Mapping[str, float], bundle: Mapping[str, float]) -> int:
    """How many processes of equal resources find room in some."""
    return int(min(resources.get(name, 0) / amount + 1e-6 for name, amount in bundle.items() if amount))


def _most(nodes: list[Node], name: str) -> float:
    return max(n.total.get(name, 0) for n in nodes)


def _largest(nodes: list[Node], name: str) -> str:
    return f"{_most(nodes, name) / 1e9:.1f} GB" if name == MEMORY else f"{_most(nodes, name):g}"
