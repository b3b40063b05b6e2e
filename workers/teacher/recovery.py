"""What a replica does about a fault, as a state machine without processes, clocks or models.

A unit is taught in trials: all its prompts at once, at first. What a failed trial leads to:

- **out of memory**: the same prompts with half the budget, and again, down to `LEAST_BUDGET`; there it is a failure.
- **a rank died or hung**: the same prompts again; the second time with half the budget, as the kernel may have ended
  the rank for its memory; the third time it is a failure.
- **a rank raised an error**: a failure.

A failure is blamed on the trial's prompts, which are then tried in two halves, and so on. A prompt that has failed
three times, the last two of them alone, is set aside with its error, and the unit is committed without it.

But prompts are blamed only while the gang itself is known to work. A trial is *doubtful* when the ranks died three
times in a unit, or when its first prompts (three, or all) had to be set aside and nothing of the unit has succeeded.
Then the replica runs its witness again, a prompt that it has taught before. Where that fails too, or where nothing was
ever taught, it is the program or the environment, and the run stops with the first cause. Three units in a row of
which nothing is left stop it too: nobody wants a store of empty units.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Literal

LEAST_BUDGET = 1 / 32
"""Share of the configured batch sizes below which less memory is not asked for: 1 text of the default 32."""

FAILURES = 3
"""Of a prompt before it is set aside, of a start, and of units in a row before the run stops."""

_ALONE = 2
"""Failures that a prompt that is set aside had when it was tried alone."""

_KEEP_UNITS = 16
"""Units after which the full budget is tried again."""

Kind = Literal["memory", "error", "dead", "hung"]


class GangFault(Exception):
    """A trial or a start failed: what kind of fault it was, and its first cause in words.

    `usable`: whether the gang can run something else as it is.
    """

    def __init__(self, kind: Kind, cause: str, *, usable: bool = False) -> None:
        super().__init__(kind, cause)
        self.kind, self.cause, self.usable = kind, cause, usable

    def __str__(self) -> str:
        return self.cause


class CannotTeach(RuntimeError):
    """The run must stop: its program or its environment is at fault. The message is the first cause."""


@dataclass(frozen=True)
class Trial:
    """Prompts of a unit (by their place in it) to run at once, with a share of the configured batch sizes."""

    prompts: tuple[int, ...]
    budget: float


@dataclass
class Recovery:
    """The trials of one unit, and what becomes of its prompts."""

    prompts: int
    budget: float = 1.0
    """Of the first trial."""
    set_aside: dict[int, str] = field(default_factory=dict)
    """Prompts that failed too often, each with its error."""
    causes: list[str] = field(default_factory=list)
    """Of all failed trials, in order."""
    succeeded_prompts: int = 0
    vouched: bool = False
    """Whether the gang was found to work although this unit fails."""

    def __post_init__(self) -> None:
        self.least = self.budget
        self._trials = [Trial(tuple(range(self.prompts)), self.budget)] if self.prompts else []
        self._deaths = 0
        self._failures: Counter[int] = Counter()
        self._alone: Counter[int] = Counter()

    @property
    def trial(self) -> Trial | None:
        """What to run next, or None when the unit is done."""
        return self._trials[-1] if self._trials else None

    @property
    def doubtful(self) -> bool:
        """Whether the gang must be seen to work before its prompts are blamed."""
        unlikely = self.set_aside and len(self.set_aside) >= min(FAILURES, self.prompts) and not self.succeeded_prompts
        return not self.vouched and bool(self._deaths >= FAILURES or unlikely)

    def succeeded(self) -> None:
        """The trial gave its targets."""
        trial = self._trials.pop()
        self.succeeded_prompts += len(trial.prompts)
        self.least = min(self.least, trial.budget)

    def failed(self, fault: GangFault) -> None:
        """The trial ended in a fault."""
        self.causes.append(fault.cause)
        trial = self._trials.pop()
        smaller = Trial(trial.prompts, trial.budget / 2)
        if fault.kind == "memory":
            if smaller.budget >= LEAST_BUDGET:
                self._trials.append(smaller)
            else:
                self._blame(trial, fault)
            return
        if fault.kind in ("dead", "hung"):
            self._deaths += 1
            if self._deaths < FAILURES:
                self._failures.update(trial.prompts)
                again = self._deaths == 1 or smaller.budget < LEAST_BUDGET
                self._trials.append(trial if again else smaller)
                return
        self._blame(trial, fault)

    def _blame(self, trial: Trial, fault: GangFault) -> None:
        self._failures.update(trial.prompts)
        if (half := len(trial.prompts) // 2) > 0:
            halves = trial.prompts[half:], trial.prompts[:half]
            self._trials += [Trial(prompts, trial.budget) for prompts in halves]
            return
        (prompt,) = trial.prompts
        self._alone[prompt] += 1
        if self._failures[prompt] >= FAILURES and self._alone[prompt] >= _ALONE:
            self.set_aside[prompt] = fault.cause
        else:
            self._trials.append(trial)


class BudgetMemory:
    """The budget that units start with: all of it, as long as no two units in a row needed less.

    What such two needed is kept for some units, as each out-of-memory can cost a gang its start; then all of it is
    tried again.
    """

    def __init__(self) -> None:
        self.budget = 1.0
        self._last, self._kept = 1.0, 0

    def taught(self, least: float) -> None:
        """A unit was taught with so small a share of the batch sizes."""
        if self.budget < 1:
            self._kept += 1
            if self._kept >= _KEEP_UNITS:
                self.budget, self._last, self._kept = 1.0, 1.0, 0
                return
            self.budget = min(self.budget, least)
        elif least < 1 and self._last < 1:
            self.budget, self._kept = max(least, self._last), 0
        self._last = least
