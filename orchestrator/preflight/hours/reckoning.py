"""Hours and dollars of a plan: parts timed on their places, laid out after one another, and priced."""

from __future__ import annotations

from collections.abc import Sequence

from cluster.resources import Node
from orchestrator.config.schema import RunConfig
from orchestrator.preflight.checks import Checked
from orchestrator.preflight.hours.estimates import Estimates, Roofline, student_tokens
from orchestrator.preflight.hours.measured import Measured
from orchestrator.preflight.hours.money import EXPORT, PREPARING, dollars_of
from orchestrator.preflight.hours.record import Hours, PartHours
from orchestrator.preflight.hours.timeline import Span, Timeline
from orchestrator.preflight.planning.record import RunPlan
from orchestrator.preflight.planning.seats import Placeable, Seats
from orchestrator.runs.rates import RunRates

_UNCOUNTED = ("tasks", "harness", "bridges", "own_text", "truth")
"""Settings of `evaluate` whose work the roofline does not count."""


def reckon(
    plan: RunPlan,
    config: RunConfig,
    found: Checked,
    vocabulary: int,
    items: Sequence[Placeable],
    rates: RunRates | None,
) -> None:
    """Fill in hours and dollars, and notes of what is not known of them. Raises ValueError for rates of other
    models."""
    nodes = list(plan.inventory.members) or [_machine(plan)]
    measured = Measured(rates, plan, config, found, vocabulary) if rates is not None else None
    estimates: Estimates = measured or Roofline(plan, config, found, vocabulary)
    share = measured.share if measured is not None else 1.0
    line = Timeline(plan, config, items, Seats(nodes, config.cluster), estimates, share)
    line.lay_out()
    parts = {name: _part(plan, line, name, share) for name in line.spans}
    wall, around = line.wall, dict[str, float]()
    if rates is not None:
        around = {PREPARING: rates.prepare_s, EXPORT: rates.export_s}
        parts |= {n: PartHours(s / 3600, source=f"measured in {rates.run} on {rates.on}") for n, s in around.items()}
        wall = None if wall is None else wall + sum(around.values())
    efficiencies = {} if rates is not None else config.cluster.efficiency.model_dump()
    plan.hours = Hours(_hours(wall), parts, efficiencies, None if rates is None else rates.uri)
    plan.notes += _why_not(line) + (measured.notes() if measured is not None else _left_out(config, plan))
    if config.cluster.prices is not None:
        plan.dollars, notes = dollars_of(config, nodes, items, line.spans, around, wall)
        plan.notes += notes
    elif wall is not None:
        plan.notes.append("dollars are not known: there are no cluster.prices")


def _machine(plan: RunPlan) -> Node:
    """This machine as one node, of which Ray sees CPUs and GPUs."""
    have = plan.inventory
    total = {"CPU": float(have.cpus), "GPU": float(have.gpus), "memory": float(have.memory)}
    return Node(have.source, total, total, {})


def _part(plan: RunPlan, line: Timeline, name: str, share: float) -> PartHours:
    span = line.spans[name]
    estimate = span.estimate
    return PartHours(
        hours=_hours(span.seconds),
        starts=_hours(span.starts),
        ends=_hours(span.ends),
        tokens_per_s=_pace(plan, line, name, span, share),
        bound="teacher" if span.waits_for_teacher else estimate.bound,
        source=estimate.source,
        steps={step: seconds / 3600 for step, seconds in estimate.steps.items()},
    )


def _pace(plan: RunPlan, line: Timeline, name: str, span: Span, share: float) -> float | None:
    """Target tokens a second of a teacher or of a specialist."""
    if not span.seconds:
        return None
    if name.startswith("teacher "):
        return plan.workload.teachers[name.removeprefix("teacher ")].targets * share / span.seconds
    if name.startswith("specialist "):
        group = line.group(name)
        return student_tokens(group[0]) / next(iter(span.estimate.steps.values()))
    return None


def _hours(seconds: float | None) -> float | None:
    return None if seconds is None else seconds / 3600


def _why_not(line: Timeline) -> list[str]:
    """Why hours of some parts are not known, the same of several in one sentence."""
    whys: dict[str, list[str]] = {}
    for name, span in line.spans.items():
        if span.estimate.why:
            whys.setdefault(span.estimate.why, []).append(name)
    if not whys:
        return []
    remedy = "--rates RUN takes what an earlier run of these models measured"
    return [f"hours of {', '.join(names)} are not known: {why}; {remedy}" for why, names in whys.items()]


def _left_out(config: RunConfig, plan: RunPlan) -> list[str]:
    """What the roofline does not count."""
    assert plan.hours is not None
    if plan.hours.wall is None:
        return []
    evaluate = config.evaluate
    left = ["preparing, loading, the network between GPUs, export"]
    left += [f"evaluate.{key}" for key in _UNCOUNTED if getattr(evaluate, key)]
    return [
        "hours are a roofline of data sheets times assumed efficiencies (cluster.efficiency), not a measurement; left "
        f"out: {', '.join(left)}; --rates RUN takes what an earlier run of these models measured"
    ]
