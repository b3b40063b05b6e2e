"""What must be there before teacher and students start, made by one short-lived process that loads torch, if at all."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from typing import Any

import ray

from cluster.placement import PlaceDeadline, away_from_head, this_node
from orchestrator.config.schema import RunConfig
from orchestrator.config.students import student_groups
from orchestrator.prompts.lengths import check_students_hold, positions_by_settings
from orchestrator.prompts.sources import Screened
from orchestrator.runs.context import RunContext
from orchestrator.runs.errors import RunFailed
from orchestrator.runs.generations import continuing, copy_between, generation_name, trained_before
from orchestrator.stages.capture import missing_heads
from orchestrator.stages.preparing.preparer import Preparer, Start
from workers.layout import PROMPTS_SUMMARY, StudentLayout
from workers.student.models.resources import resource_request

_SAY_S = 30.0
"""Seconds after which it is said what place is waited for, or how far freezing is."""


_KEPT_FACTS = ("parameters", "layers")
"""Facts about initial weights that are as true of what was trained from them."""


class Preparation:
    """Makes what is missing; starts its process at the first thing that is. A context manager.

    `initials`: the students' initial weights are made too, so that the process reserves what that takes.
    """

    def __init__(self, ctx: RunContext, *, initials: bool = False) -> None:
        self._ctx, self._initials = ctx, initials
        self._continuing = continuing(ctx.run, ctx.config)
        """Students whose initial weights are what they were in the generation before."""
        self._actor: Any = None

    def __enter__(self) -> Preparation:
        return self

    def __exit__(self, *_: object) -> None:
        if self._actor is not None:
            ray.kill(self._actor)

    def try_out(self) -> None:
        """Try the user's functions and every specialist that has no initial weights yet, before anything is asked of a
        teacher.

        Raises ValueError for what would fail later.
        """
        config, exists = self._ctx.config, self._ctx.run.storage.exists
        new = [name for name in config.specialists if not exists(StudentLayout(name).initial_facts)]
        if new or not exists(PROMPTS_SUMMARY):
            _result(self._preparer().try_out.remote(config, new))

    def prompts(self, screened: Screened | None) -> dict[str, Any]:
        """The summary of the frozen prompts; `screened` are the rows of their sources, where they were read already.

        Raises ValueError where none can be used, or a specialist cannot hold them.
        """
        ctx = self._ctx
        if (summary := ctx.run.read_json(PROMPTS_SUMMARY)) is not None:
            # Of a specialist that was added; what older runs froze does not say.
            check_students_hold(ctx.config, summary.get("longest", {}), positions_by_settings(ctx.config))
            return summary
        preparer, said = self._preparer(), ""
        call = preparer.freeze_prompts.remote(ctx.config, ctx.run.uri, screened)
        while not ray.wait([call], timeout=_SAY_S)[0]:
            if (words := ray.get(preparer.frozen.remote())) != said:
                ctx.say(f"freezing prompts: {words}")
                said = words
        return _result(call)

    def heads(self) -> None:
        """The heads of teachers whose hidden states a store is to hold, where they are missing.

        Raises ValueError for a teacher that has none of its own.
        """
        if missing := missing_heads(self._ctx.run, self._ctx.config):
            _result(self._preparer().write_heads.remote(self._ctx.config, self._ctx.run.uri, missing))

    def initial(self, vocabulary: int) -> Iterator[tuple[str, str]]:
        """Make the students' initial weights where they are missing; what each student starts from, in words, as soon
        as it is there."""
        ctx, missing = self._ctx, []
        for start in _starts(ctx.config):
            facts = ctx.run.read_json(StudentLayout(start.name).initial_facts)
            if facts is None and start.name in self._continuing:
                facts = self._take_over(start.name)
            if facts is None:
                missing.append(start)
            else:
                yield start.name, _in_words(facts)
        if missing:
            make = self._preparer().make_initials.options(num_returns="streaming")
            for done in make.remote(ctx.run.uri, missing, vocabulary, ctx.config.initial):
                name, facts = _result(done)
                yield name, _in_words(facts)

    def _take_over(self, name: str) -> dict[str, Any]:
        """Begin with what a student was at the end of the generation before; facts about it. Copied within the store
        where both lie in one."""
        ctx, layout = self._ctx, StudentLayout(name)
        before = trained_before(ctx.run, ctx.config)
        assert before is not None
        ctx.require_lease()
        ctx.run.storage.delete(layout.initial)  # what a killed copy has left
        copy_between(before, layout.final, ctx.run, layout.initial)
        facts = {"continues": generation_name(before, ctx.run)}
        facts |= {k: v for k, v in (before.read_json(layout.initial_facts) or {}).items() if k in _KEPT_FACTS}
        ctx.require_lease()
        ctx.run.storage.write(layout.initial_facts, json.dumps(facts).encode())
        return facts

    def _preparer(self) -> Any:
        if self._actor is None:
            self._actor = self._placed()
        return self._actor

    def _placed(self) -> Any:
        """The process, in its place. Raises RunFailed where the cluster has none that is large enough."""
        exists, what = self._ctx.run.storage.exists, "making initial weights (`initial`)"
        starts = [s for s in _starts(self._ctx.config) if s.name not in self._continuing]
        starts = [s for s in starts if not exists(StudentLayout(s.name).initial_facts)]
        request = resource_request([s.model for s in starts], self._ctx.config.initial) if self._initials else None
        if request is None:
            return Preparer.remote(self._ctx.board, this_node())  # type: ignore[attr-defined]
        actor = Preparer.options(**away_from_head(request)).remote(self._ctx.board, this_node())  # type: ignore[attr-defined]
        deadline = PlaceDeadline(request, what, self._ctx.config.cluster.placement_deadline_s)
        ready, began = actor.__ray_ready__.remote(), time.monotonic()
        while not ray.wait([ready], timeout=0.25)[0]:
            if time.monotonic() - began >= _SAY_S:
                self._ctx.say(f"{what} waits for {request}")
                began = math.inf
            try:
                deadline.check()
            except TimeoutError as error:
                ray.kill(actor)
                raise RunFailed(str(error)) from None
        return actor


def _starts(config: RunConfig) -> list[Start]:
    """What students start from: a specialist and its control from the same."""
    starts = []
    for group in student_groups(config):
        student = group[0]
        domain = max(student.mix, key=lambda d: student.mix[d])
        # Of the name, so that another specialist in the run does not change this one's weights.
        seed = config.seed * 1000 + sum(student.name.encode()) % 1000
        starts.append(Start(student.name, student.config.model, domain, seed))
    return starts


def _result(call: Any) -> Any:
    """What the Preparer returned. A ValueError of its is one of this process: what is wrong, without its traceback."""
    try:
        return ray.get(call)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, ValueError):
            raise error.cause from None
        raise


def _in_words(facts: dict[str, Any]) -> str:
    words = f"{facts['parameters'] / 1e6:.2f} M parameters, {facts['layers']} layers"
    if "continues" in facts:
        return f"{words}, as it was at the end of generation {facts['continues']}"
    if "merged" in facts:
        words += f", {facts['merged_experts']} experts made {facts['merged_width']} neurons by {facts['merged']} "
        words += f"(KL to the mixture {facts['kl_to_mixture']:.3f})"
    if "dropped_layers" in facts:
        words += f", layers dropped {facts['dropped_layers']} (KL to base {facts['kl_to_base']:.3f})"
    return words
