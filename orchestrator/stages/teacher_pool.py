"""A pool of one teacher's replicas over missing units: Ray Data runs them, and this actor gives them their places."""

from __future__ import annotations

import threading
import time
from typing import Any

import ray

from cluster.placement import away_from, free_group_of
from orchestrator.config.schema import RunConfig
from orchestrator.stages.admission import IDLE_S, Admission
from orchestrator.stages.capture import made_together, pool_size, replica_job
from orchestrator.stages.ray_data import quieten
from workers.teacher.units.replica import Replica, calls_at_once

_MOST_BLOCKS = 1000
"""Ray Data blocks of a pass at most; a block lost with its replica costs only a look at the log for units committed."""


_ALL_HELD = 0.51
"""Share of the calls that replicas can run at once, from which Ray Data starts more of them; with all of them running
their number grows by the inverse."""


@ray.remote(num_cpus=0, max_restarts=0, concurrency_groups={"admission": 1})
class TeacherPool:
    """Runs a pool of replicas over missing units. An actor, so that the driver need not load Ray Data.

    Ray Data starts replicas while units are queued, each of them a process that reserves nothing, and knows nothing of
    worker groups. So every replica asks here whether to look for a place, and its place is freed from here when no unit
    is left for it: Ray Data would keep idle ones until the pass is over. Replicas themselves stay off the nodes that
    teachers and students ask for by label, so that these can leave.
    """

    def __init__(self, units: int, least: int) -> None:
        self._admission = Admission(units, least)
        self._lock, self._freeing = threading.Lock(), threading.Lock()

    def capture(
        self, run_uri: str, config: RunConfig, name: str, rows: list[dict[str, Any]], epoch: int, board: str
    ) -> int:
        """Capture units with one teacher; returns how many were captured. Blocks until all are committed.

        Raises what ended the pool.
        """
        import ray.data

        quieten()
        # As long as every replica has as much as it can hold, their number is doubled.
        scaling = ray.data.DataContext.get_current().autoscaling_config
        scaling.actor_pool_util_upscaling_threshold = _ALL_HELD
        job = replica_job(run_uri, config, name, epoch, board)
        items = made_together(run_uri, config, name, rows)
        least, most = pool_size(job.teacher, len(items))
        selectors = [teacher.label_selector for teacher in config.teachers.values()]
        selectors += [specialist.train.label_selector for specialist in config.specialists.values()]
        units = ray.data.from_items(items, override_num_blocks=min(len(items), _MOST_BLOCKS))
        captured = units.map_batches(
            Replica,
            fn_constructor_args=[job, ray.get_runtime_context().current_actor],
            batch_size=1,
            num_cpus=0,  # a worker group may want all of a node
            compute=ray.data.ActorPoolStrategy(
                min_size=least,
                max_size=most,
                max_concurrent_calls_per_actor=calls_at_once(job.teacher),
                max_tasks_in_flight_per_actor=calls_at_once(job.teacher),
                enable_true_multi_threading=True,  # Replica says what may run at once
            ),
            **away_from(selectors),
        )
        captured.set_name(f"capture-{name}")
        done = sum(bool(row["captured"]) for row in captured.iter_rows())
        self._free()
        return done

    @ray.method(concurrency_group="admission")
    def tell(self, growing: bool, others: int) -> None:
        """Whether replicas beyond the least may look for a place, and how many other teachers are at work."""
        self._admission.growing, self._admission.others = growing, others

    @ray.method(concurrency_group="admission")
    def admit(self, replica: str) -> str:
        """`place`, `wait` or `nothing` (Admission.admit)."""
        with self._lock:
            return self._admission.admit(replica, time.monotonic())

    @ray.method(concurrency_group="admission")
    def patience(self, replica: str) -> str:
        """How long a replica may wait for its place (Admission.patience)."""
        return self._admission.patience(replica)

    @ray.method(concurrency_group="admission")
    def placed(self, replica: str) -> int:
        """A replica has a place; how many have, or 0 (Admission.place)."""
        with self._lock:
            return self._admission.place(replica)

    @ray.method(concurrency_group="admission")
    def begin(self, replica: str, unit: tuple[str, int, int]) -> None:
        """A replica begins a unit."""
        with self._lock:
            self._admission.begin(replica, unit)
        self._free()

    @ray.method(concurrency_group="admission")
    def rest(self, replica: str) -> None:
        """A replica is ready for a unit, or for another one. Frees the places of those that will have none."""
        with self._lock:
            self._admission.rest(replica, time.monotonic())
        self._free()
        timer = threading.Timer(IDLE_S + 0.1, self._free)
        timer.daemon = True
        timer.start()

    def _free(self) -> None:
        """Free the places that no replica needs any more. Returns when all are free, also those that another thread
        frees: a place outlives this actor, and with it a node that nobody uses."""
        with self._freeing:
            with self._lock:
                idle = self._admission.free(time.monotonic())
            for replica in idle:
                free_group_of(replica)
