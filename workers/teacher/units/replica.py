"""A replica: the thin Ray Data actor that leads one worker group. It captures a unit and commits it.

It loads no torch: the ranks do. What it does with units is in unit_runner.py, what with faults in
groups/fault_tolerant_group.py.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray

from cluster.lease import Fence
from cluster.placement import free_group, place_group, state_of
from cluster.storage import open_storage
from workers.channels.board import Control, Reporter
from workers.channels.events import Message, PlaceEnded, PlaceWanted, ReplicaAtWork, ReplicaLoading, ReplicaReady
from workers.channels.messages import CaptureStopped, ReplicaLost, ReplicaPlaced, UnitCaptured
from workers.fetching.names import is_remote
from workers.fingerprint import model_fingerprint
from workers.teacher.config import TeacherConfig
from workers.teacher.groups.fault_tolerant_group import FaultTolerantGroup
from workers.teacher.groups.recovery import CannotCapture
from workers.teacher.groups.resources import resource_request
from workers.teacher.units.answers import AnswerRules
from workers.teacher.units.unit_runner import Row, UnitRunner

_TELL_S = 60.0
"""Seconds after which the texts in slots are told again, however little they changed."""


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
    board: str
    """Name of the run's board."""


def calls_at_once(teacher: TeacherConfig) -> int:
    """Calls of a replica that run at once: one makes texts, one commits, and where its texts may be begun one is the
    next. More would only wait, with units that other replicas could begin."""
    return 3 if teacher.begins_next else 2


class NotNeeded(Exception):
    """No unit is left for this replica."""


class Replica:
    """A `map_batches` callable: a row {split, units, repairs} of units to make together in, one row of facts per unit
    out. Ray Data has several calls run at once, which make texts and commit in turns (unit_runner.py).

    `repairs` are the revisions to make: 0 for a unit that is new. `pool` is the actor that admits replicas to places
    (orchestrator/stages/teacher_pool.py).
    """

    def __init__(self, job: ReplicaJob, pool: Any) -> None:
        self._job, self._pool = job, pool
        self._me = ray.get_runtime_context().get_actor_id()
        self._report, self._control = Reporter(job.board), Control(job.board)
        self._calls, self._lock = 0, threading.Lock()
        self._place: Any = None
        self._worker_group = FaultTolerantGroup(
            job.teacher,
            f"teacher {job.name}",
            place=self._find_place,
            lost=self._lost_its_place,
            say=self._say,
            at_work=self._at_work,
            board=job.board,
        )
        self._told_at_work = (-1, 0.0)
        storage = open_storage(job.run_uri)
        self._runner = UnitRunner(
            storage,
            self._worker_group,
            Fence(storage, job.epoch),
            self._report,
            teacher=job.name,
            fingerprint=job.fingerprint,
            rules=job.rules,
            begins_next=job.teacher.begins_next,
            replica=self._me,
        )
        if ray.get_runtime_context().was_current_actor_reconstructed:
            where = ray.util.get_node_ip_address()
            note = f"the process that leads a replica of teacher {job.name} died and was started again on {where}"
            self._say(note)
            self._control(ReplicaLost(job.name, note))
        try:
            facts = self._worker_group.start()
        except NotNeeded:
            return
        except CannotCapture as error:
            # Raised here it would be raised again by every replica that Ray Data starts instead of this one.
            self._control(CaptureStopped(job.name, str(error)))
            return
        held = [fact["weights_held"] for fact in facts]
        self._report(ReplicaReady(teacher=job.name, weights_held=held, replica=self._me))
        self._pool.rest.remote(self._me)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, Any]:
        ((split,), (units,), (repairs,)) = (batch["split"], batch["units"], batch["repairs"])
        rows = [(str(split), int(unit), int(repair)) for unit, repair in zip(units, repairs, strict=True)]
        return {"unit": np.array(units), "captured": np.array(self._take(rows))}

    def _take(self, rows: list[Row]) -> list[bool]:
        """Capture units, as ones that the pool knows to be taken."""
        with self._lock:
            self._calls += 1
            for row in rows:
                ray.get(self._pool.begin.remote(self._me, row))
        try:
            won = self._runner.capture(rows)
            for split, unit, _ in rows:
                self._control.note(UnitCaptured(self._job.name, split, unit))
            return won
        except CannotCapture as error:
            self._control(CaptureStopped(self._job.name, str(error)))
            raise
        finally:
            with self._lock:
                self._calls -= 1
                if not self._calls:
                    self._pool.rest.remote(self._me)

    def _lost_its_place(self) -> bool:
        """Whether the pool freed the worker group's place, as it thought that it was done here."""
        return self._place is not None and state_of(self._place) == "REMOVED"

    def _find_place(self) -> Any:
        """The group to make the worker group in: the one that there is, or a new one. Raises NotNeeded, or
        CannotCapture."""
        self._require_unchanged()
        while True:
            self._be_admitted()
            self._place = self._placed()
            if self._place is None:
                continue
            if count := ray.get(self._pool.placed.remote(self._me)):
                self._report(ReplicaLoading(teacher=self._job.name, replica=self._me))
                self._control(ReplicaPlaced(self._job.name, count))
                return self._place
            free_group(self._place)

    def _placed(self) -> Any | None:
        """A place, as `place_group` finds it, which is looked for out loud. Raises CannotCapture."""
        request, me = resource_request(self._job.teacher), {"place": self._me, "teacher": self._job.name}
        bundle, labels = dict(request.bundles[0]), dict(request.labels)
        self._report(PlaceWanted(**me, processes=len(request.bundles), resources=bundle, labels=labels))
        found = None
        try:
            found = place_group(
                request,
                what=f"a replica of teacher {self._job.name}",
                deadline_s=self._job.deadline_s,
                patience=lambda: ray.get(self._pool.patience.remote(self._me)),
                say=self._say,
            )
        except TimeoutError as error:
            raise CannotCapture(str(error)) from None
        finally:
            self._report(PlaceEnded(**me, found=found is not None))
        return found

    def _require_unchanged(self) -> None:
        """Raise CannotCapture if an s3:// folder was written to since the run began, or cannot be read. (A commit of
        the Hub stays as it is.) Whoever starts ranks anew loads it anew."""
        teacher = self._job.teacher
        if not is_remote(teacher.model):
            return
        try:
            now = model_fingerprint(teacher.model)
        except ValueError as error:
            raise CannotCapture(str(error)) from None
        if now != self._job.fingerprint:
            raise CannotCapture(
                f"the files at {teacher.model!r} are others than those this run began with; put them back, or give the "
                "run another name"
            )

    def _be_admitted(self) -> None:
        """Wait until this replica may look for a place. Raises NotNeeded."""
        while not self._calls and (answer := ray.get(self._pool.admit.remote(self._me))) != "place":
            if answer == "nothing":
                raise NotNeeded
            time.sleep(1)

    def _at_work(self, texts: int) -> None:
        """Tell how many texts are in slots, if that changed by an eighth of them or was told a minute ago."""
        slots, (told, when), now = self._job.teacher.replica_slots, self._told_at_work, time.monotonic()
        if abs(texts - told) >= max(1, slots // 8) or now - when >= _TELL_S:
            self._told_at_work = texts, now
            self._report(ReplicaAtWork(teacher=self._job.name, replica=self._me, texts=texts, slots=slots))

    def _say(self, text: str) -> None:
        self._report(Message(text=text, teacher=self._job.name))
