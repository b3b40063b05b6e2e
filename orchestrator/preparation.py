"""What must be there before teacher and students start, made by one short-lived process that loads torch, if at all."""

from __future__ import annotations

from typing import Any

import ray

from orchestrator.attempt import Attempt
from orchestrator.initial import Preparer
from orchestrator.prompts import SUMMARY_KEY
from orchestrator.students import Student, initial_key


class Preparation:
    """Makes what is missing; starts its process at the first thing that is. A context manager."""

    def __init__(self, now: Attempt) -> None:
        self._now = now
        self._actor: Any = None

    def __enter__(self) -> Preparation:
        return self

    def __exit__(self, *_: object) -> None:
        if self._actor is not None:
            ray.kill(self._actor)

    def prompts(self) -> dict[str, Any]:
        """The summary of the frozen prompts."""
        now = self._now
        summary = now.run.read_json(SUMMARY_KEY)
        return summary or ray.get(self._preparer().freeze_prompts.remote(now.config, now.run.uri))

    def initial(self, student: Student, vocabulary: int) -> dict[str, Any]:
        """Facts about a student's initial weights."""
        now, key = self._now, initial_key(student)
        facts = now.run.read_json(f"{key}.json")
        if facts is not None:
            return facts
        domain = max(student.mix, key=lambda d: student.mix[d])
        # Of the name, so that another specialist in the run does not change this one's weights.
        seed = now.config.seed * 1000 + sum(student.name.encode()) % 1000
        call = self._preparer().make_initial.remote(now.run.uri, key, student.config.model, domain, vocabulary, seed)
        return ray.get(call)

    def _preparer(self) -> Any:
        if self._actor is None:
            self._actor = Preparer.remote()  # type: ignore[attr-defined]
        return self._actor
