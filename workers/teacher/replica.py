"""A replica: the thin Ray Data actor that leads one gang. It teaches a unit and commits it.

It loads no torch: the ranks do. What it does with units is in unit_teacher.py, what with faults in leader.py.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray

from cluster.lease import Fence
from cluster.placement import place_gang, state_of
from cluster.storage import open_storage
from workers.progress import Reporter
from workers.teacher.answers import AnswerRules
from workers.teacher.config import TeacherConfig
from workers.teacher.leader import Leader
from workers.teacher.place import wanted_place
from workers.teacher.recovery import CannotTeach
from workers.teacher.unit_teacher import Row, UnitTeacher


@dataclass(frozen=True)
class ReplicaJob:
    """All a replica needs to know, as it crosses to its process."""

    name: str
    teacher: TeacherConfig
    fingerprint: str
    run_uri: str
    rules: AnswerRules
    epoch: int
    """The driver's lease, which must hold when a unit is committed."""
    deadline_s: float
    progress: str
    """Name of the run's progress actor."""


class NotNeeded(Exception):
    """No unit is left for this replica."""


class Replica:
    """A `map_batches` callable: rows {split, unit, repair} in, one row of facts per unit out.

    `repair` is the revision to make: 0 for a unit that is new. `pool` is the actor that admits replicas to places
    (orchestrator/capture.py).
    """

    def __init__(self, job: ReplicaJob, pool: Any) -> None:
        self._job, self._pool = job, pool
        self._me = ray.get_runtime_context().get_actor_id()
        self._report = Reporter(job.progress)
        self._at_work = False
        self._group: Any = None
        self._leader = Leader(job.teacher, f"teacher {job.name}", place=self._find_place, say=self._say)
        storage = open_storage(job.run_uri)
        self._teacher = UnitTeacher(
            storage,
            self._leader,
            Fence(storage, job.epoch),
            self._report,
            teacher=job.name,
            fingerprint=job.fingerprint,
            rules=job.rules,
        )
        if ray.get_runtime_context().was_current_actor_reconstructed:
            where = ray.util.get_node_ip_address()
            note = f"the process that leads a replica of teacher {job.name} died and was started again on {where}"
            self._report("teacher", note=note, failed=True)
        try:
            facts = self._leader.start()
        except NotNeeded:
            return
        except CannotTeach as error:
            # Raised here it would be raised again by every replica that Ray Data starts instead of this one.
            self._report.at_last("teacher", stopped=str(error))
            return
        self._report("teacher", ready=True, facts=facts, name=job.name)
        self._pool.rest.remote(self._me)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, Any]:
        columns = (batch["split"].tolist(), batch["unit"].tolist(), batch["repair"].tolist())
        rows = [(str(split), int(unit), int(repair)) for split, unit, repair in zip(*columns, strict=True)]
        return {"unit": batch["unit"], "split": batch["split"], "taught": np.array(self._take(rows))}

    def _take(self, rows: list[Row]) -> list[bool]:
        """Teach units, as ones that the pool knows to be taken."""
        for row in rows:
            ray.get(self._pool.begin.remote(self._me, row))
        self._at_work = True
        try:
            if self._group is not None and state_of(self._group) == "REMOVED":
                self._leader.close()  # the pool thought that it was done here
            return self._teacher.teach(rows)
        except CannotTeach as error:
            self._report.at_last("teacher", stopped=str(error))
            raise
        finally:
            self._at_work = False
            self._pool.rest.remote(self._me)

    def _find_place(self) -> Any:
        """The group to make the gang in: the one that there is, or a new one. Raises NotNeeded, or CannotTeach."""
        while True:
            self._be_admitted()
            try:
                self._group = place_gang(
                    wanted_place(self._job.teacher),
                    what=f"a replica of teacher {self._job.name}",
                    deadline_s=self._job.deadline_s,
                    patience=lambda: ray.get(self._pool.patience.remote(self._me)),
                    say=self._say,
                )
            except TimeoutError as error:
                raise CannotTeach(str(error)) from None
            if self._group is not None:
                self._report("teacher", placed=self._job.name, count=ray.get(self._pool.placed.remote(self._me)))
                return self._group

    def _be_admitted(self) -> None:
        """Wait until this replica may look for a place. Raises NotNeeded."""
        while not self._at_work and (answer := ray.get(self._pool.admit.remote(self._me))) != "place":
            if answer == "nothing":
                raise NotNeeded
            time.sleep(1)

    def _say(self, text: str) -> None:
        self._report("teacher", note=text)
