"""The leader of a gang: makes it, has it run a unit's texts, and gets over its faults by the rules of recovery.py."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from workers.targets.arrays import UnitTargets
from workers.teacher.config import TeacherConfig
from workers.teacher.engine import CaptureSpec, TextRequest
from workers.teacher.gang import Gang
from workers.teacher.recovery import FAILURES, BudgetMemory, CannotTeach, GangFault, Recovery, Trial


@dataclass
class Answer:
    """What a unit's texts gave: their targets in order, without those of prompts that were set aside."""

    targets: UnitTargets
    set_aside: list[dict[str, Any]] = field(default_factory=list)
    budget: float = 1.0
    """Share of the configured batch sizes that memory allowed."""


class Leader:
    """Leads one gang at a time. `place` gives the place to make it in; `say` is told of every fault."""

    def __init__(
        self, config: TeacherConfig, name: str, *, place: Callable[[], Any], say: Callable[[str], None]
    ) -> None:
        self._config, self._name, self._place, self._say = config, name, place, say
        self._gang: Gang | None = None
        self._budget = BudgetMemory()
        self._witness: tuple[list[TextRequest], CaptureSpec] | None = None
        self._empty_units = 0
        self._first_cause = ""

    def run(self, requests: list[TextRequest], spec: CaptureSpec) -> UnitTargets:
        """Run texts that must succeed (no prompt's fault is looked for). Raises CannotTeach."""
        recovery = Recovery(1)
        while (trial := recovery.trial) is not None:
            try:
                targets = self._run(requests, spec, trial.budget)
            except GangFault as fault:
                self._get_over(recovery, fault)
                if recovery.doubtful:
                    raise CannotTeach(recovery.causes[0]) from None
            else:
                return targets
        raise AssertionError("one that is set aside is doubtful before")

    def teach(self, unit: str, requests: list[TextRequest], spec: CaptureSpec) -> Answer:
        """Run a unit's texts; `unit` is what messages call it. Raises CannotTeach."""
        prompts = _by_prompt(requests)
        recovery = Recovery(len(prompts), self._budget.budget)
        parts: list[UnitTargets] = []
        while (trial := recovery.trial) is not None:
            texts = [r for p in trial.prompts for r in prompts[p]]
            try:
                parts.append(self._run(texts, spec, trial.budget))
            except GangFault as fault:
                self._get_over(recovery, fault, unit)
            else:
                recovery.succeeded()
                self._witness = (min((prompts[p] for p in trial.prompts), key=_work), spec)
            if recovery.doubtful:
                self._vouch(unit, recovery)
        self._count_empty(unit, recovery)
        self._budget.taught(recovery.least)
        return Answer(_in_order(parts, requests), _set_aside(recovery, prompts), recovery.least)

    def close(self) -> None:
        """End the gang. Its place is kept."""
        if self._gang is not None:
            self._gang.close()
            self._gang = None

    def _run(self, requests: list[TextRequest], spec: CaptureSpec, budget: float) -> UnitTargets:
        if self._gang is None:
            self.start()
        assert self._gang is not None
        try:
            return self._gang.run(requests, spec, budget)
        except GangFault as fault:
            if not fault.usable:
                self.close()
            raise

    def start(self) -> list[dict[str, Any]]:
        """Make the gang, in up to three attempts; returns what its ranks say of themselves.

        Raises CannotTeach with the first attempt's cause, and what `place` raises.
        """
        causes: list[str] = []
        while True:
            group = self._place()
            if causes:
                self._say(f"{self._name}: its gang did not start, once more: {causes[-1]}")
            self._gang = Gang(self._config, group)
            try:
                return self._gang.start()
            except GangFault as fault:
                self.close()
                causes.append(fault.cause)
                if len(causes) >= FAILURES:
                    raise CannotTeach(f"its gang did not start {FAILURES} times in a row: {causes[0]}") from None

    def _get_over(self, recovery: Recovery, fault: GangFault, unit: str = "its first texts") -> None:
        trial = recovery.trial
        assert trial is not None
        before = set(recovery.set_aside)
        recovery.failed(fault)
        self._say(f"{self._name}, {unit}: {fault.cause}; {_consequence(trial, recovery, before)}")

    def _vouch(self, unit: str, recovery: Recovery) -> None:
        """See that the gang works, as the unit fails. Raises CannotTeach with the first cause if not."""
        cause = f"{unit}: {recovery.causes[0]}"
        if self._witness is None:
            raise CannotTeach(f"{cause}; this replica has taught nothing, so its prompts are not blamed")
        try:
            self._run(*self._witness, recovery.least)
        except GangFault:
            raise CannotTeach(f"{cause}; a prompt that was taught before fails now too") from None
        recovery.vouched = True

    def _count_empty(self, unit: str, recovery: Recovery) -> None:
        if recovery.succeeded_prompts:
            self._empty_units = 0
            return
        self._first_cause = self._first_cause if self._empty_units else recovery.causes[0]
        self._empty_units += 1
        if self._empty_units >= FAILURES:
            raise CannotTeach(f"{unit}: all prompts of {FAILURES} units in a row failed, first of {self._first_cause}")


def _by_prompt(requests: list[TextRequest]) -> list[list[TextRequest]]:
    found: dict[str, list[TextRequest]] = {}
    for request in requests:
        found.setdefault(request.prompt_id, []).append(request)
    return list(found.values())


def _work(requests: list[TextRequest]) -> int:
    return sum(len(r.prompt_ids) + len(r.answer_ids or ()) + r.max_new_tokens for r in requests)


def _in_order(parts: list[UnitTargets], requests: list[TextRequest]) -> UnitTargets:
    """The rows of all trials, as the requests were."""
    if len(parts) < 2:
        return parts[0] if parts else UnitTargets()
    joined = UnitTargets.join(parts)
    place = {(r.prompt_id, r.sample): i for i, r in enumerate(requests)}
    rows = [place[key] for key in zip(joined.prompt_ids, joined.samples.tolist(), strict=True)]
    return joined.select(np.argsort(np.array(rows)))


def _set_aside(recovery: Recovery, prompts: list[list[TextRequest]]) -> list[dict[str, Any]]:
    return [
        {"id": prompts[p][0].prompt_id, "reason": f"the teacher fails on it: {cause}"}
        for p, cause in sorted(recovery.set_aside.items())
    ]


def _consequence(trial: Trial, recovery: Recovery, set_aside_before: set[int]) -> str:
    """What follows from a failed trial, in words."""
    if len(recovery.set_aside) > len(set_aside_before):
        return "this prompt is set aside"
    following = recovery.trial
    assert following is not None
    again = "again" if following.prompts == trial.prompts else f"again, {len(following.prompts)} prompts of them first"
    budget = f" with {following.budget:.3g} of the batch sizes" if following.budget < trial.budget else ""
    return f"run {again}{budget}"
