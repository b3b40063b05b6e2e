"""A plan as data."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from cluster.inventory import Inventory
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
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def is_estimate(self) -> bool:
        """Whether its prompts are estimated from samples of some sources."""
        return any(source["read"] < source["rows"] for source in self.sources.values())

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)
