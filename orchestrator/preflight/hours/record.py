"""Hours and dollars of a plan, as data."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from orchestrator.preflight.hours.roofline import Bound


@dataclass(frozen=True)
class PartHours:
    """How long one part takes, and when. None where that is not known."""

    hours: float | None = None
    """Of its work, all its replicas and workers together."""
    starts: float | None = None
    """Hours after teacher and students begin."""
    ends: float | None = None
    tokens_per_s: float | None = None
    """Target tokens a second while it works."""
    bound: Bound | Literal["teacher"] | None = None
    """What most of its time goes to; `teacher`: a student waits for targets longer than it trains."""
    source: str | None = None
    """Where that is from: `roofline`, or `measured in RUN on ...`."""
    steps: dict[str, float] = field(default_factory=dict)
    """What it does one after another, in hours by name."""


@dataclass(frozen=True)
class Hours:
    """How long a run takes."""

    wall: float | None
    """From the first unit to the last score; None where a part of it is not known."""
    parts: dict[str, PartHours]
    """By part of the plan."""
    efficiencies: dict[str, float]
    """Which part of its hardware's figures each kind of work is taken to reach (cluster.efficiency)."""
    rates: str | None = None
    """The run whose measured rates were taken."""


@dataclass(frozen=True)
class Dollars:
    """What that costs by cluster.prices. None where it is not known."""

    total: float | None
    """Of planned nodes for as long as the run takes, idle or not; of other clusters, of the places that are held."""
    parts: dict[str, float | None]
    """Of places, for as long as each part holds them."""
    idle: float | None
    """What planned nodes cost beyond that."""
