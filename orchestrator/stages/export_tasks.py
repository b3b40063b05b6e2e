"""Exports as work on Ray: each is written and measured on a node that has room for it, and no driver loads a model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import ray

from cluster.placement import PlaceDeadline, away_from_head
from orchestrator.runs.context import RunContext
from workers.export.artefact import Artefact
from workers.export.job import ExportJob, answer, artefact_of
from workers.export.resources import resource_request
from workers.failures import first_cause

_RETRIES = 2
"""Times that an export whose process died is made again."""

_DIED = (ray.exceptions.WorkerCrashedError, ray.exceptions.OutOfMemoryError, ray.exceptions.NodeDiedError)


class ExportTasks:
    """Makes exports, `evaluate.workers` of them at once: with one, nothing of a run works beside a file whose speed is
    measured. They keep off the cluster's head where another node has the room."""

    def __init__(self, ctx: RunContext, poll: Callable[[], object]) -> None:
        """`poll` is called while they are waited for; it raises what ends the run."""
        settings, self._poll = ctx.config, poll
        self._request, self._at_once = resource_request(settings.evaluate), settings.evaluate.workers
        self._threads, self._deadline_s = settings.evaluate.threads, settings.cluster.placement_deadline_s

    def __call__(self, jobs: Sequence[ExportJob]) -> Iterator[tuple[ExportJob, Artefact | str]]:
        """Each job with its artefact, or why there is none, as they are done. What finds no place until the deadline
        has failed."""
        options = away_from_head(self._request)
        wanted = replace(self._request, labels=options.get("label_selector", {}))
        deadline = PlaceDeadline(wanted, "an export", self._deadline_s)
        task = ray.remote(_export).options(**options, max_retries=_RETRIES)
        left, calls = list(jobs), dict[Any, ExportJob]()
        try:
            while left or calls:
                while left and len(calls) < self._at_once:
                    job = left.pop(0)
                    calls[task.remote(job, self._threads)] = job
                ended, _ = ray.wait(list(calls), timeout=0.25)
                for call in ended:
                    yield calls.pop(call), _outcome(call)
                if not ended:
                    self._poll()
                    deadline.check()
        except TimeoutError as error:
            yield from ((job, f"export: {error}") for job in [*calls.values(), *left])
        finally:
            for call in calls:
                ray.cancel(call, force=True)


def _export(job: ExportJob, threads: int) -> dict[str, Any]:
    """Runs in a process of a node: torch is loaded there, not in the driver."""
    import torch

    torch.set_num_threads(threads)
    return answer(job)


def _outcome(call: Any) -> Artefact | str:
    try:
        return artefact_of(ray.get(call))
    except _DIED:
        return (
            f"export: the process that writes it died {_RETRIES + 1} times, most often of too little memory: it holds "
            "the model once in float32, and the file beside it. Ask for a larger share of a node (evaluate.cpus), or "
            "set measure: 0 in this export"
        )
    except (ray.exceptions.RayError, ValueError, RuntimeError) as error:
        return first_cause(error) if isinstance(error, ray.exceptions.RayError) else str(error)
