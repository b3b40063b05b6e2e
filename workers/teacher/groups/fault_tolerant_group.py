"""The leader of a worker group: makes it, has it run a unit's texts, and gets over its faults by the rules of
recovery.py."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from workers.targets.encoding.arrays import UnitTargets
from workers.teacher.config import TeacherConfig
from workers.teacher.engine import CaptureSpec, TextRequest
from workers.teacher.generation.detokenize import Detokenizer, split
from workers.teacher.groups.recovery import FAILURES, BatchScaleMemory, CannotCapture, GroupFault, Recovery, Trial
from workers.teacher.groups.worker_group import WorkerGroup

_ALONE = 16
"""Captures that take no texts of the next one after a fault that may have been theirs: it would be met again."""


@dataclass
class Answer:
    """What a unit's texts gave: their targets in order, without those of prompts that were rejected."""

    targets: UnitTargets
    rejected: list[dict[str, Any]] = field(default_factory=list)
    batch_scale: float = 1.0
    """Share of the configured batch sizes that memory allowed."""


class FaultTolerantGroup:
    """Leads one worker group at a time. `place` gives the place to make it in, `lost` says whether that is gone since,
    `say` is told of every fault, `at_work` of how many texts are in slots, and the run's `board` of how a fetch of the
    model goes."""

    def __init__(
        self,
        config: TeacherConfig,
        name: str,
        *,
        place: Callable[[], Any],
        say: Callable[[str], None],
        lost: Callable[[], bool] = lambda: False,
        at_work: Callable[[int], None] = lambda texts: None,
        board: str = "",
    ) -> None:
        self._config, self._name, self._place, self._say = config, name, place, say
        self._lost, self._at_work, self._board = lost, at_work, board
        self._worker_group: WorkerGroup | None = None
        self._batch_scale = BatchScaleMemory()
        self._known_good: tuple[list[TextRequest], CaptureSpec] | None = None
        self._empty_units = 0
        self._alone = 0
        """Captures to come that take no texts of the next one."""
        self._first_cause = ""
        self._tokenizer: str | None = None
        self._detokenizer: Detokenizer | None = None

    def run(self, requests: list[TextRequest], spec: CaptureSpec) -> UnitTargets:
        """Run texts that must succeed (no prompt's fault is looked for). Raises CannotCapture."""
        recovery = Recovery(1)
        while (trial := recovery.trial) is not None:
            try:
                targets = self._run(requests, spec, trial.batch_scale)
            except GroupFault as fault:
                self._get_over(recovery, fault)
                if recovery.suspect:
                    raise CannotCapture(recovery.causes[0]) from None
            else:
                return targets
        raise AssertionError("one that is rejected is suspect before")

    def capture(
        self, unit: str, requests: list[TextRequest], spec: CaptureSpec, then: Sequence[TextRequest] = ()
    ) -> Answer:
        """Run a unit's texts; `unit` is what messages call it, and `then` are those of the next one, to begin where
        slots become free. What comes back has no texts yet (`detokenize`). Raises CannotCapture."""
        if self._lost():
            self.close()
        if self._alone:
            self._alone, then = self._alone - 1, ()
        prompts = _by_prompt(requests)
        recovery = Recovery(len(prompts), self._batch_scale.batch_scale)
        parts: list[UnitTargets] = []
        while (trial := recovery.trial) is not None:
            texts = [r for p in trial.prompts for r in prompts[p]]
            try:
                parts.append(self._run(texts, spec, trial.batch_scale, then))
            except GroupFault as fault:
                if then:  # it may be theirs
                    self._say(f"{self._name}, {unit}: {fault.cause}; run again without texts of the next one")
                    self._alone, then = _ALONE, ()
                    continue
                self._get_over(recovery, fault, unit)
            else:
                recovery.succeeded()
                self._known_good = (min((prompts[p] for p in trial.prompts), key=_work), spec)
            if recovery.suspect:
                self._check_health(unit, recovery)
        self._count_empty(unit, recovery)
        self._batch_scale.captured(recovery.least)
        return Answer(_in_order(parts, requests), _rejected(recovery, prompts), recovery.least)

    def detokenize(self, targets: UnitTargets) -> None:
        """Put texts and tokens' ends into what `capture` gave. For the thread that commits; one at a time."""
        assert self._tokenizer is not None, "texts are left out by ranks that gave their tokenizer"
        if self._detokenizer is None:
            self._detokenizer = Detokenizer(self._tokenizer)
        targets.texts, targets.ends = self._detokenizer(split(targets.tokens, targets.lengths))

    def close(self) -> None:
        """End the worker group. Its place is kept."""
        if self._worker_group is not None:
            self._worker_group.close()
            self._worker_group = None

    def _run(
        self, requests: list[TextRequest], spec: CaptureSpec, batch_scale: float, then: Sequence[TextRequest] = ()
    ) -> UnitTargets:
        if self._worker_group is None:
            self.start()
        assert self._worker_group is not None
        try:
            return self._worker_group.run(requests, spec, batch_scale, texts=self._tokenizer is None, then=then)
        except GroupFault as fault:
            if not fault.usable:
                self.close()
            raise

    def start(self) -> list[dict[str, Any]]:
        """Make the worker group, in up to three attempts; returns what its ranks say of themselves.

        Raises CannotCapture with the first attempt's cause, and what `place` raises.
        """
        causes: list[str] = []
        while True:
            group = self._place()
            if causes:
                self._say(f"{self._name}: its worker group did not start, once more: {causes[-1]}")
            self._worker_group = WorkerGroup(self._config, group, self._board, self._at_work)
            try:
                facts = self._worker_group.start()
                self._tokenizer = self._tokenizer or self._worker_group.tokenizer()
                return facts
            except GroupFault as fault:
                self.close()
                causes.append(fault.cause)
                if len(causes) >= FAILURES:
                    raise CannotCapture(
                        f"its worker group did not start {FAILURES} times in a row: {causes[0]}"
                    ) from None

    def _get_over(self, recovery: Recovery, fault: GroupFault, unit: str = "its first texts") -> None:
        trial = recovery.trial
        assert trial is not None
        before = set(recovery.rejected)
        recovery.failed(fault)
        self._say(f"{self._name}, {unit}: {fault.cause}; {_consequence(trial, recovery, before)}")

    def _check_health(self, unit: str, recovery: Recovery) -> None:
        """See that the worker group works, as the unit fails. Raises CannotCapture with the first cause if not."""
        cause = f"{unit}: {recovery.causes[0]}"
        if self._known_good is None:
            raise CannotCapture(f"{cause}; this replica has captured nothing, so its prompts are not blamed")
        try:
            self._run(*self._known_good, recovery.least)
        except GroupFault:
            raise CannotCapture(f"{cause}; a prompt that was captured before fails now too") from None
        recovery.healthy = True

    def _count_empty(self, unit: str, recovery: Recovery) -> None:
        if recovery.succeeded_prompts:
            self._empty_units = 0
            return
        self._first_cause = self._first_cause if self._empty_units else recovery.causes[0]
        self._empty_units += 1
        if self._empty_units >= FAILURES:
            raise CannotCapture(
                f"{unit}: all prompts of {FAILURES} units in a row failed, first of {self._first_cause}"
            )


def _by_prompt(requests: list[TextRequest]) -> list[list[TextRequest]]:
    found: dict[str, list[TextRequest]] = {}
    for request in requests:
        found.setdefault(request.prompt_uid, []).append(request)
    return list(found.values())


def _work(requests: list[TextRequest]) -> int:
    return sum(len(r.prompt_token_ids) + len(r.answer_token_ids or ()) + r.max_new_tokens for r in requests)


def _in_order(parts: list[UnitTargets], requests: list[TextRequest]) -> UnitTargets:
    """The rows of all trials, as the requests were."""
    if len(parts) < 2:
        return parts[0] if parts else UnitTargets()
    joined = UnitTargets.join(parts)
    place = {(r.prompt_uid, r.sample): i for i, r in enumerate(requests)}
    rows = [place[key] for key in zip(joined.prompt_uids, joined.samples.tolist(), strict=True)]
    return joined.select(np.argsort(np.array(rows)))


def _rejected(recovery: Recovery, prompts: list[list[TextRequest]]) -> list[dict[str, Any]]:
    return [
        {"id": prompts[p][0].prompt_uid, "reason": f"the teacher fails on it: {cause}"}
        for p, cause in sorted(recovery.rejected.items())
    ]


def _consequence(trial: Trial, recovery: Recovery, rejected_before: set[int]) -> str:
    """What follows from a failed trial, in words."""
    if len(recovery.rejected) > len(rejected_before):
        return "this prompt is rejected"
    following = recovery.trial
    assert following is not None
    again = "again" if following.prompts == trial.prompts else f"again, {len(following.prompts)} prompts of them first"
    batch_scale = (
        f" with {following.batch_scale:.3g} of the batch sizes" if following.batch_scale < trial.batch_scale else ""
    )
    return f"run {again}{batch_scale}"
