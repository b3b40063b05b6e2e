"""A plan as data."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from cluster.inventory import Inventory
from orchestrator.preflight.hours.record import Dollars, Hours
from orchestrator.preflight.hours.workload import Workload
from orchestrator.preflight.parts import Part


@dataclass(frozen=True)
class TeacherSlots:
    """How much of one replica of a teacher training units keep at work: estimates, over all its texts."""

    slots: int
    """Texts that it can run at once."""
    in_use: float
    """Of these, on average."""
    share: float
    unit_texts: int
    units_at_once: int


@dataclass(frozen=True)
class BaselinePrice:
    """What one of `evaluate.baselines` adds to a run, about; of a specialist beside another one, what it takes."""

    trained_tokens: int
    """Target tokens that its students train on together."""
    scored_tokens: int
    """Held-out target tokens that its models score together."""
    flops: float
    """Of both (prices.py)."""
    stored_bytes: int
    """Of trained weights that stay in the storage, checkpoints left out."""
    held_bytes: int
    """Of the weights of its largest model, in a process that scores."""


@dataclass
class RunPlan:
    """The plan of a run."""

    name: str
    folder: str
    inventory: Inventory
    parts: list[Part] = field(default_factory=list)
    sources: dict[str, dict[str, int]] = field(default_factory=dict)
    """By prompt source: `rows` that it has, whether that is `exact`, and how many of them were `read`; with fewer, what
    follows of its prompts is an estimate from those."""
    prompts: dict[str, dict[str, int]] = field(default_factory=dict)
    """By domain: train and heldout prompts, target tokens at most."""
    teachers: dict[str, list[str]] = field(default_factory=dict)
    """By domain: those that its training prompts are for."""
    control_tokens: dict[str, int] = field(default_factory=dict)
    """By specialist: target tokens that each of its controls trains on."""
    baselines: dict[str, BaselinePrice] = field(default_factory=dict)
    """By baseline, and by specialist that `evaluate.beside` names; `quantised`: of all quantised siblings."""
    given_tokens: dict[str, int] = field(default_factory=dict)
    """By domain: target tokens of training prompts whose answers are given, about."""
    longest_answer: dict[str, int] = field(default_factory=dict)
    """By teacher: most tokens of an answer that it makes."""
    slots: dict[str, TeacherSlots] = field(default_factory=dict)
    """By teacher; none where its prompts are frozen already."""
    rejected: int = 0
    train_tokens: int = 0
    heldout_tokens: int = 0
    train_bytes: int = 0
    heldout_bytes: int = 0
    heldout_scheme: str = "full"
    """How exact distributions are kept: `full` or `hidden`."""
    heldout_why: str = ""
    """Why in that way, in words."""
    heldout_unit_bytes: int = 0
    """Of one unit of the held-out store, about, as a process that scores holds it."""
    free_bytes: int | None = None
    """On the disk of the storage; None where that is not of this machine."""
    hours: Hours | None = None
    """How long it takes; None before that is reckoned."""
    dollars: Dollars | None = None
    """What that costs, where there are prices."""
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    workload: Workload = field(default_factory=Workload)
    """What hours follow from."""

    @property
    def is_estimate(self) -> bool:
        """Whether its prompts are estimated from samples of some sources."""
        return any(source["read"] < source["rows"] for source in self.sources.values())

    def to_dict(self) -> dict[str, Any]:
        return {key: value for key, value in asdict(self).items() if key != "workload"}
