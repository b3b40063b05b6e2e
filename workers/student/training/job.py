"""What a worker of a specialist is told, and what it says when a step fails."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from workers.layout import StudentLayout
from workers.targets.contract import Contract


@dataclass(frozen=True)
class ReplayedRun:
    """An older generation whose training texts a student reads again."""

    name: str
    uri: str
    mix: dict[str, float]
    """Shares of its domains."""
    epoch: int
    """From 1, of the order in which its units are read: another one in each generation that reads them."""
    declared: Contract
    """What its targets are."""


@dataclass(frozen=True)
class SpecialistJob:
    """All a worker needs to know, as it crosses to its process (pydantic records travel as dictionaries)."""

    name: str
    run_uri: str
    initial: str
    """Key of the folder with the initial weights."""
    mix: dict[str, float]
    loss: dict[str, Any]
    train: dict[str, Any]
    seed: int
    declared: Contract
    """What the targets must be."""
    epoch: int
    """The driver's lease, which must hold when a checkpoint or the final model is written."""
    board: str
    """Name of the run's board."""
    texts: dict[str, Any] = field(default_factory=dict)
    repairs: bool = False
    """Whether somebody recomputes damaged units while this student waits for them."""
    lora: dict[str, Any] | None = None
    """Settings of the adapters that are trained in place of all weights."""
    end_tokens: int | None = None
    """Target tokens after which training ends, though rates and weights of the loss go by all of `train.tokens`. None:
    it ends with them."""
    given_only: bool = False
    """Whether it learns from nothing but texts whose answers were given."""
    first_kl: dict[str, Any] | None = None
    """Thresholds of its KL before training (FirstKlConfig), which is measured on the first batch. None: it is not."""
    snapshots: dict[str, int] = field(default_factory=dict)
    """Weights to keep beside the final ones, by the name of their folder: after how many target tokens."""
    goes_on: bool = False
    """Whether it starts from what it was in an older generation: it may know its texts well when it begins."""
    replay: tuple[ReplayedRun, ...] = ()
    """Older generations that it reads too, in equal parts."""
    replay_share: float = 0.0
    """Their share of its target tokens."""

    @staticmethod
    def from_fields(fields: dict[str, Any]) -> SpecialistJob:
        """The inverse of `asdict`."""
        replay = tuple(
            ReplayedRun(**{**run, "declared": Contract(**run["declared"])}) for run in fields.get("replay", ())
        )
        return SpecialistJob(**{**fields, "declared": Contract(**fields["declared"]), "replay": replay})

    @property
    def layout(self) -> StudentLayout:
        return StudentLayout(self.name)


def bad_step(job: SpecialistJob, step: int, loss: float, norm: float) -> FloatingPointError:
    """The error of a step whose loss or gradient is NaN or Inf, with what to do about it."""
    remedy = "try a smaller train.lr, or train.clip 1"
    if step == 1:
        remedy = f"nothing was learned yet, so the weights it starts from are at fault ({job.initial})"
    what = f"the loss of step {step} is {loss}"
    if math.isfinite(loss):
        what = f"the gradient of step {step} is NaN or Inf (norm {norm}), though its loss is {loss:.4g}"
    return FloatingPointError(
        f"{job.name}: {what}; {remedy}. The ids of its texts are in {job.layout.failed_step(step)}"
    )
