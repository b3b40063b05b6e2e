"""What a place costs an hour, by the prices of nodes, GPUs and CPUs. Pure."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field

from cluster.config import ClusterConfig
from cluster.nodes.kinds import TYPE_LABEL, NodeKind, node_kinds
from cluster.resources import matches


@dataclass(frozen=True)
class Place:
    """What one process reserves, and on which nodes it may be."""

    cpus: float
    gpus: float
    accelerator_type: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Rate:
    """Dollars an hour."""

    gpu: float
    """Of one GPU."""
    cpu: float
    """Of one CPU."""

    def dollars(self, gpu_s: float, cpu_s: float) -> float:
        """Of so many seconds of GPUs and CPUs."""
        return (gpu_s * self.gpu + cpu_s * self.cpu) / 3600


def check_prices(cluster: ClusterConfig) -> None:
    """Raise ValueError for a price of a kind of node that is not known, or whose GPUs are not counted."""
    if cluster.prices is None:
        return
    kinds = node_kinds(cluster.node_kinds)
    for name in cluster.prices.node_hour:
        where = f"cluster.prices.node_hour.{name}"
        if name not in kinds:
            near = difflib.get_close_matches(name.lower(), kinds, 1, 0.6)
            raise ValueError(
                f"{where}: {name!r} is no known kind of node"
                + (f"; did you mean {near[0]!r}?" if near else "")
                + f" There are {', '.join(sorted(kinds))}; cluster.node_kinds may say more"
            )
        if kinds[name].gpus is None:
            raise ValueError(
                f"{where}: how many GPUs share that price is not known; say so in cluster.node_kinds.{name}.gpus"
            )


def rate_of(cluster: ClusterConfig, place: Place) -> Rate | None:
    """What a place costs; None where nothing says so, or where the kinds of nodes that it may be on differ in price."""
    if (prices := cluster.prices) is None:
        return None
    kinds = node_kinds(cluster.node_kinds)
    priced = [(kinds[name], dollars) for name, dollars in prices.node_hour.items()]
    rates = {_of_node(kind, dollars, place) for kind, dollars in _fitting(priced, place)}
    if len(rates) == 1:
        return Rate(*rates.pop())
    if prices.gpu_hour is None and prices.cpu_hour is None:
        paid = not place.gpus and priced and not rates  # CPUs of nodes whose GPUs are paid for
        return Rate(0.0, 0.0) if paid else None
    if place.gpus and prices.gpu_hour is None:
        return None
    return Rate(prices.gpu_hour or 0.0, prices.cpu_hour or 0.0)


def node_rate(cluster: ClusterConfig, kind: NodeKind, gpus: float, cpus: float) -> float | None:
    """Dollars an hour of a node of a kind with so many GPUs and CPUs: of its price as large a part as it is of a whole
    node, else by its GPUs and CPUs; None where nothing says so."""
    if (prices := cluster.prices) is None:
        return None
    if kind.name in prices.node_hour:
        return prices.node_hour[kind.name] * (gpus / kind.gpus if kind.gpus else cpus / kind.cpus)
    if (prices.gpu_hour if gpus else prices.cpu_hour) is None:
        return None
    return gpus * (prices.gpu_hour or 0.0) + cpus * (prices.cpu_hour or 0.0)


def _fitting(priced: list[tuple[NodeKind, float]], place: Place) -> list[tuple[NodeKind, float]]:
    """Kinds that a place may be on: those with GPUs where it wants some, else those without; of these the ones that
    have its accelerators and labels, as far as the kinds say what theirs are."""
    fits = [(kind, dollars) for kind, dollars in priced if bool(kind.gpus) == bool(place.gpus)]
    if (wanted := place.accelerator_type) is not None:
        fits = [(kind, dollars) for kind, dollars in fits if kind.accelerator_type in (None, wanted)]
    if place.labels:
        labelled = [(kind, dollars) for kind, dollars in fits if matches(_labels(kind), place.labels)]
        fits = labelled or fits
    return fits


def _labels(kind: NodeKind) -> dict[str, str]:
    own = {} if kind.accelerator_type is None else {TYPE_LABEL: kind.accelerator_type}
    return {**own, **kind.labels}


def _of_node(kind: NodeKind, dollars: float, place: Place) -> tuple[float, float]:
    """A node's price by its GPUs, or by its CPUs where it has none."""
    return (dollars / (kind.gpus or 1), 0.0) if place.gpus else (0.0, dollars / kind.cpus)
