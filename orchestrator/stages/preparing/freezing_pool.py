"""Freezing in many processes: Ray Data gives each one item of the work at a time."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from ray import cloudpickle

from orchestrator.prompts.freezing.work import Work
from orchestrator.stages.ray_data import quieten, restarted

_RETRIES = 3
"""How often a process is started anew that died: of too little memory, or with its node."""


class _Worker:
    """One process of the pool."""

    def __init__(self, work: Work, items: Sequence[Any]) -> None:
        os.environ["TOKENIZERS_PARALLELISM"] = "false"  # a process has one CPU
        self._work, self._items = work, items

    def __call__(self, row: dict[str, Any]) -> dict[str, bytes]:
        # As bytes: Ray Data takes apart what looks like a table, and of an error keeps the words alone.
        return {"done": cloudpickle.dumps(self._done(self._items[row["item"]]))}

    def _done(self, item: Any) -> Any:
        try:
            return self._work(item)
        except ValueError as error:
            return error


def in_pool(work: Work, items: Sequence[Any], /) -> Iterator[Any]:
    """Does items of work on the cluster's CPUs, as they are free; yields what came of each as it is done (see
    `orchestrator.prompts.freezing.work.Spread`). Raises what the work raised where that is a ValueError."""
    import ray.data

    quieten()
    most = max(1, min(int(ray.cluster_resources().get("CPU", 1)), len(items)))
    numbers = ray.data.from_items([{"item": i} for i in range(len(items))], override_num_blocks=max(len(items), 1))
    results = numbers.map(
        _Worker,
        fn_constructor_args=[work, items],
        num_cpus=1,
        ray_remote_args_fn=partial(restarted, _RETRIES),
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=most, max_tasks_in_flight_per_actor=2),
    )
    results.set_name("freeze")
    for row in results.iter_rows():
        done = cloudpickle.loads(row["done"])
        if isinstance(done, ValueError):
            raise done
        yield done
