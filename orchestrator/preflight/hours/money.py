"""What the hours of a plan cost by `cluster.prices`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from cluster.nodes.kinds import PlannedNode
from cluster.nodes.prices import Place, node_rate, rate_of
from cluster.resources import Node
from orchestrator.config.schema import RunConfig
from orchestrator.preflight.hours.record import Dollars
from orchestrator.preflight.hours.timeline import Span
from orchestrator.preflight.planning.seats import Placeable

PREPARING, EXPORT = "preparing", "export"
"""What a run does before and after the parts of its plan."""


def dollars_of(
    config: RunConfig,
    nodes: Iterable[Node],
    items: Iterable[Placeable],
    spans: Mapping[str, Span],
    around: Mapping[str, float],
    wall: float | None,
) -> tuple[Dollars, list[str]]:
    """What a run costs whose parts hold places for such spans, `wall` seconds in all; and why that is not known.
    `around` are seconds of what one process does before and after them."""
    nodes, items, notes = list(nodes), [i for i in items if i.part.name in spans], list[str]()
    planned = [node for node in nodes if isinstance(node, PlannedNode)]
    if not planned:
        parts = {i.part.name: _by_place(config, i, spans[i.part.name]) for i in items}
        parts |= {name: _of_one(config, name, seconds) for name, seconds in around.items()}
        known = [dollars for dollars in parts.values() if dollars is not None]
        if len(known) < len(parts):
            notes.append("dollars: what some parts cost is not known, as their hours or prices are not")
        total = sum(known) if len(known) == len(parts) else None
        return Dollars(total, parts, None), notes
    rates = [node_rate(config.cluster, n.kind, n.total.get("GPU", 0.0), n.total["CPU"]) for n in planned]
    parts = {i.part.name: _on_nodes(i, spans[i.part.name], planned, rates) for i in items}
    if lacking := sorted({n.kind.name for n, rate in zip(planned, rates, strict=True) if rate is None}):
        notes.append(
            f"dollars: cluster.prices says nothing of nodes of {', '.join(lacking)}; give node_hour, or gpu_hour and "
            "cpu_hour"
        )
        return Dollars(None, parts, None), notes
    if wall is None:
        return Dollars(None, parts, None), ["dollars: not known, as the hours are not"]
    total = sum(rate or 0.0 for rate in rates) * wall / 3600
    held = [dollars for dollars in parts.values() if dollars is not None]
    return Dollars(total, parts, max(total - sum(held), 0.0) if len(held) == len(parts) else None), notes


def _by_place(config: RunConfig, item: Placeable, span: Span) -> float | None:
    """By what each process reserves."""
    part, teacher = item.part, config.teachers.get(item.part.name.removeprefix("teacher "))
    accelerator = teacher.accelerator_type if part.kind == "teacher" and teacher is not None else None
    rate = rate_of(config.cluster, Place(part.cpus, part.gpus, accelerator, item.request.labels))
    if rate is None or span.held is None:
        return None
    seconds = span.held * sum(map(len, span.places))
    return rate.dollars(part.gpus * seconds, part.cpus * seconds)


def _of_one(config: RunConfig, name: str, seconds: float) -> float | None:
    """Of a process that prepares, or of one that exports, which has the place of one that scores."""
    place = Place(config.evaluate.cpus, config.evaluate.gpus) if name == EXPORT else Place(1.0, 0.0)
    rate = rate_of(config.cluster, place)
    return None if rate is None else rate.dollars(place.gpus * seconds, place.cpus * seconds)


def _on_nodes(item: Placeable, span: Span, nodes: list[PlannedNode], rates: list[float | None]) -> float | None:
    """By the part of its nodes that it reserves: of GPUs where a node has some, else of CPUs."""
    if span.held is None:
        return None
    hourly = 0.0
    for i in (i for group in span.places for i in group):
        if (rate := rates[i]) is None:
            return None
        gpus = nodes[i].total.get("GPU", 0.0)
        hourly += rate * (item.part.gpus / gpus if gpus else item.part.cpus / nodes[i].total["CPU"])
    return hourly * span.held / 3600
