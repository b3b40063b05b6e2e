"""Freezing in many processes: Ray Data gives each one item of the work at a time."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import ray
from ray import cloudpickle

from cluster.placement import on_node, this_node
from orchestrator.prompts.freezing.work import Spread, Work
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


def pool_led_on(node: str) -> Spread:
    """Freezing in a pool that is led on a node, by its id. Where Ray Data is first used it leaves actors of its own,
    for as long as the cluster is there, and an autoscaler never takes that node away: it should be one that stays."""
    if node == this_node():
        return in_pool

    def spread(work: Work, items: Sequence[Any], /) -> Iterator[Any]:
        lead = ray.remote(_frozen).options(
            num_cpus=0, num_returns="streaming", max_retries=0, scheduling_strategy=on_node(node)
        )
        for done in lead.remote(work, items):
            yield _result(ray.get(done))

    return spread


def in_pool(work: Work, items: Sequence[Any], /) -> Iterator[Any]:
    """Does items of work on the cluster's CPUs, as they are free; yields what came of each as it is done (see
    `orchestrator.prompts.freezing.work.Spread`). Raises what the work raised where that is a ValueError."""
    return map(_result, _frozen(work, items))


def _result(done: bytes) -> Any:
    result = cloudpickle.loads(done)
    if isinstance(result, ValueError):
        raise result
    return result


def _frozen(work: Work, items: Sequence[Any]) -> Iterator[bytes]:
    """Leads the pool."""
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
        yield row["done"]
