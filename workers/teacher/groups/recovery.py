"""What a replica does about a fault, as a state machine without processes, clocks or models.

A unit is captured in trials: all its prompts at once, at first. What a failed trial leads to:

- **out of memory**: the same prompts with half the batch scale, and again, down to `LEAST_BATCH_SCALE`; there it is a
  failure.
- **a rank died or hung**: the same prompts again; the second time with half the batch scale, as the kernel may have
  ended the rank for its memory; the third time it is a failure.
- **a rank raised an error**: a failure.

A failure is blamed on the trial's prompts, which are then tried in two halves, and so on. A prompt that has failed
three times, the last two of them alone, is rejected with its error, and the unit is committed without it.

But prompts are blamed only while the worker group itself is known to work. A trial is *suspect* when the ranks died
three times in a unit, or when its first prompts (three, or all) had to be rejected and nothing of the unit has
succeeded. Then the replica runs a known-good prompt again, one that it has captured before. Where that fails too, or
where nothing was ever captured, it is the program or the environment, and the run stops with the first cause. Three
units in a row of which nothing is left stop it too: nobody wants a store of empty units.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Literal

LEAST_BATCH_SCALE = 1 / 32
"""Share of the configured batch sizes below which less memory is not asked for: 1 text of 32, 4 of 128."""

FAILURES = 3
"""Of a prompt before it is rejected, of a start, and of units in a row before the run stops."""

_ALONE = 2
"""Failures that a prompt that is rejected had when it was tried alone."""

_KEEP_UNITS = 16
"""Units after which the full batch scale is tried again."""

Kind = Literal["memory", "error", "dead", "hung"]


class GroupFault(Exception):
    """A trial or a start failed: what kind of fault it was, and its first cause in words.

    `usable`: whether the worker group can run something else as it is.
    """

    def __init__(self, kind: Kind, cause: str, *, usable: bool = False) -> None:
        super().__init__(kind, cause)
        self.kind, self.cause, self.usable = kind, cause, usable

    def __str__(self) -> str:
        return self.cause


class CannotCapture(RuntimeError):
    """The run must stop: its program or its environment is at fault. The message is the first cause."""


@dataclass(frozen=True)
class Trial:
    """Prompts of a unit (by their place in it) to run at once, with a share of the configured batch sizes."""

    prompts: tuple[int, ...]
    batch_scale: float


@dataclass
class Recovery:
    """The trials of one unit, and what becomes of its prompts."""

    prompts: int
    batch_scale: float = 1.0
    """Of the first trial."""
    rejected: dict[int, str] = field(default_factory=dict)
    """Prompts that failed too often, each with its error."""
    causes: list[str] = field(default_factory=list)
    """Of all failed trials, in order."""
    succeeded_prompts: int = 0
    healthy: bool = False
    """Whether the worker group was found to work although this unit fails."""

    def __post_init__(self) -> None:
        self.least = self.batch_scale
        self._trials = [Trial(tuple(range(self.prompts)), self.batch_scale)] if self.prompts else []
        self._deaths = 0
        self._failures: Counter[int] = Counter()
        self._alone: Counter[int] = Counter()

    @property
    def trial(self) -> Trial | None:
        """What to run next, or None when the unit is done."""
        return self._trials[-1] if self._trials else None

    @property
    def suspect(self) -> bool:
        """Whether the worker group must be seen to work before its prompts are blamed."""
        unlikely = self.rejected and len(self.rejected) >= min(FAILURES, self.prompts) and not self.succeeded_prompts
        return not self.healthy and bool(self._deaths >= FAILURES or unlikely)

    def succeeded(self) -> None:
        """The trial gave its targets."""
        trial = self._trials.pop()
        self.succeeded_prompts += len(trial.prompts)
        self.least = min(self.least, trial.batch_scale)

    def failed(self, fault: GroupFault) -> None:
        """The trial ended in a fault."""
        self.causes.append(fault.cause)
        trial = self._trials.pop()
        smaller = Trial(trial.prompts, trial.batch_scale / 2)
        if fault.kind == "memory":
            if smaller.batch_scale >= LEAST_BATCH_SCALE:
                self._trials.append(smaller)
            else:
                self._blame(trial, fault)
            return
        if fault.kind in ("dead", "hung"):
            self._deaths += 1
            if self._deaths < FAILURES:
                self._failures.update(trial.prompts)
                again = self._deaths == 1 or smaller.batch_scale < LEAST_BATCH_SCALE
                self._trials.append(trial if again else smaller)
                return
        self._blame(trial, fault)

    def _blame(self, trial: Trial, fault: GroupFault) -> None:
        self._failures.update(trial.prompts)
        if (half := len(trial.prompts) // 2) > 0:
            halves = trial.prompts[half:], trial.prompts[:half]
            self._trials += [Trial(prompts, trial.batch_scale) for prompts in halves]
            return
        (prompt,) = trial.prompts
        self._alone[prompt] += 1
        if self._failures[prompt] >= FAILURES and self._alone[prompt] >= _ALONE:
            self.rejected[prompt] = fault.cause
        else:
            self._trials.append(trial)


class BatchScaleMemory:
    """The batch_scale that units start with: all of it, as long as no two units in a row needed less.

    What such two needed is kept for some units, as each out-of-memory can cost a worker group its start; then all of it
    is tried again.
    """

    def __init__(self) -> None:
        self.batch_scale = 1.0
        self._last, self._kept = 1.0, 0

    def captured(self, least: float) -> None:
        """A unit was captured with so small a share of the batch sizes."""
        if self.batch_scale < 1:
            self._kept += 1
            if self._kept >= _KEEP_UNITS:
                self.batch_scale, self._last, self._kept = 1.0, 1.0, 0
                return
            self.batch_scale = min(self.batch_scale, least)
        elif least < 1 and self._last < 1:
            self.batch_scale, self._kept = max(least, self._last), 0
        self._last = least
