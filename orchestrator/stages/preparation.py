"""What must be there before teacher and students start, made by one short-lived process that loads torch, if at all."""

from __future__ import annotations

from typing import Any

import ray

from orchestrator.config.students import Student, starts_from
from orchestrator.prompts.lengths import check_students_hold, positions_by_settings
from orchestrator.prompts.sources import Screened
from orchestrator.runs.context import RunContext
from orchestrator.stages.capture import missing_heads
from orchestrator.stages.preparer import Preparer
from workers.layout import PROMPTS_SUMMARY, StudentLayout


class Preparation:
    """Makes what is missing; starts its process at the first thing that is. A context manager."""

    def __init__(self, ctx: RunContext) -> None:
        self._ctx = ctx
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
        return _result(self._preparer().freeze_prompts.remote(ctx.config, ctx.run.uri, screened))

    def heads(self) -> None:
        """The heads of teachers whose hidden states a store is to hold, where they are missing.

        Raises ValueError for a teacher that has none of its own.
        """
        if missing := missing_heads(self._ctx.run, self._ctx.config):
            _result(self._preparer().write_heads.remote(self._ctx.config, self._ctx.run.uri, missing))

    def initial(self, student: Student, vocabulary: int) -> str:
        """Make a student's initial weights where they are missing; returns what they are, in words."""
        ctx, start = self._ctx, starts_from(student)
        facts = ctx.run.read_json(start.initial_facts)
        if facts is None:
            domain = max(student.mix, key=lambda d: student.mix[d])
            # Of the name, so that another specialist in the run does not change this one's weights.
            seed = ctx.config.seed * 1000 + sum(student.name.encode()) % 1000
            model = student.config.model
            make = self._preparer().make_initial
            facts = _result(make.remote(ctx.run.uri, start.name, model, domain, vocabulary, seed))
        return _in_words(facts)

    def _preparer(self) -> Any:
        if self._actor is None:
            self._actor = Preparer.remote()  # type: ignore[attr-defined]
        return self._actor


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
    if "merged" in facts:
        words += f", {facts['merged_experts']} experts made {facts['merged_width']} neurons by {facts['merged']} "
        words += f"(KL to the mixture {facts['kl_to_mixture']:.3f})"
    if "dropped_layers" in facts:
        words += f", layers dropped {facts['dropped_layers']} (KL to base {facts['kl_to_base']:.3f})"
    return words
