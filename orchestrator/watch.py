"""Teacher and students at work at the same time: starting both, and watching until both are over."""

from __future__ import annotations

import time
from typing import Any

import ray

from cluster.inventory import cluster_nodes
from cluster.placement import beside_driver
from cluster.room import table
from orchestrator.attempt import Attempt
from orchestrator.capture import TeacherPool, pool_size
from orchestrator.errors import RunFailed, first_cause
from orchestrator.repairs import rows_of_marked
from orchestrator.students import Student, lineup, make_job
from orchestrator.supervisor import Supervisor
from workers.manifest import read_plan
from workers.splits import TRAIN
from workers.student.place import wanted_place
from workers.targets.contract import Contract

_TICK_S = 0.25

_MOST_LOSSES = 3
"""Leaders lost in a row, with no unit taught between, before the run stops: it would not get better by itself."""

_STUDENTS_S = 60.0
"""Seconds in which students take their places before more teacher replicas may take what is left, and after which one
that has none is named."""


class Teaching:
    """The passes over the missing units: one pool for each teacher, all at once.

    Units that students find damaged are taught in a further pass, when the teacher's present one is over: two pools of
    one teacher could hold what the other waits for.
    """

    def __init__(self, now: Attempt, work: dict[str, list[dict[str, Any]]]) -> None:
        self._now = now
        self._calls: dict[Any, str] = {}
        self._pools: dict[str, Any] = {}
        self._damaged: dict[str, set[int]] = {}
        self._losses: list[str] = []
        self._growing = False
        self._unplaced: dict[str, int] = {}
        names = sorted(name for name, rows in work.items() if rows)
        if not names:
            now.view.say("nothing to teach: every planned unit is committed")
        for name in names:
            self._unplaced[name] = pool_size(now.config.teachers[name], len(work[name]))[0]
            self._start(name, work[name])

    def _start(self, name: str, rows: list[dict[str, Any]]) -> None:
        now, teacher = self._now, self._now.config.teachers[name]
        least, most = pool_size(teacher, len(rows))
        again = sum(row["repair"] > 0 for row in rows)
        units = f"{len(rows)} units" + (f" ({again} again, as they are damaged)" if again else "")
        now.view.say(f"teacher {name}: {units}, {least} to {most} replicas of {teacher.ep_size} ranks")
        now.view.teacher.planned += len(rows)
        pool = TeacherPool.options(scheduling_strategy=beside_driver()).remote(len(rows), least)  # type: ignore[attr-defined]
        self._pools[name] = pool
        self._calls[pool.teach.remote(now.run.uri, now.config, name, rows, now.epoch, now.board_name)] = name
        self._tell()

    def _tell(self) -> None:
        """Let every pool know what the others do."""
        for pool in self._pools.values():
            pool.tell.remote(self._growing, len(self._pools) - 1)

    def grow(self) -> None:
        """Let replicas beyond the least look for a place."""
        if not self._growing:
            self._growing = True
            self._tell()

    def note(self, event: dict[str, Any]) -> None:
        """Replicas that are placed make room for students; what stops a replica stops the run, and so do leaders that
        die without a unit taught between; a damaged unit is taught again."""
        if event.get("stopped"):
            raise RunFailed(f"the teacher stopped: {event['stopped']}")
        if event["kind"] == "unit":
            self._losses = []
        if event.get("failed"):
            self._losses.append(event["note"])
            if len(self._losses) >= _MOST_LOSSES:
                raise RunFailed(f"the teacher stopped: {len(self._losses)} times in a row {self._losses[0]}")
        if event.get("placed") in self._unplaced and event["count"] >= self._unplaced[event["placed"]]:
            del self._unplaced[event["placed"]]
        if event["kind"] == "damaged":
            teacher = read_plan(self._now.run.storage, TRAIN).units[event["unit"]].teacher
            self._damaged.setdefault(teacher, set()).add(event["unit"])

    def _start_repairs(self) -> None:
        """A pass for the units that students reported, where their teacher is idle and they are damaged still."""
        for name in sorted(set(self._damaged) - set(self._calls.values())):
            if rows := rows_of_marked(self._now.run, TRAIN, self._damaged.pop(name)):
                self._start(name, rows)

    @property
    def placed(self) -> bool:
        return not self._unplaced or self.over

    @property
    def over(self) -> bool:
        """Whether all passes ended, those of repairs too. Raises the first cause of one that failed."""
        calls = list(self._calls)
        ready, _ = ray.wait(calls, num_returns=len(calls), timeout=0) if calls else ([], [])
        for call in ready:
            name = self._calls.pop(call)
            try:
                ray.get(call)
            except ray.exceptions.RayError as error:
                self._now.require_lease()
                for event in self._now.drain():
                    self.note(event)
                raise RunFailed(f"the teacher stopped: {first_cause(error)}") from error
            del self._pools[name]
            self._unplaced.pop(name, None)
            self._tell()
        self._start_repairs()
        return not self._calls


class Training:
    """The students' supervisor and its calls.

    `declared` is what they expect of their targets. `repairs`: whether a teacher mends what they find damaged.
    """

    def __init__(self, now: Attempt, only: list[str], declared: Contract, *, repairs: bool) -> None:
        self._now, self._declared, self._repairs = now, declared, repairs
        self._chains = [
            [s for s in chain if now.run.student_done(s.name) is None]
            for chain in lineup(now.config)
            if not only or chain[0].name in only
        ]
        self._calls: dict[Any, list[Student]] = {}
        self._heard: set[str] = set()
        self.started = self._told = 0.0

    def start(self) -> None:
        """Send every chain of students to the supervisor."""
        now, self.started = self._now, time.monotonic()
        self._told = self.started
        chains = [c for c in self._chains if c]
        if not chains:
            return
        where = beside_driver()  # Ray would choose any node, and a lost one would be the end of all students
        supervisor = Supervisor.options(max_concurrency=len(chains), scheduling_strategy=where).remote()  # type: ignore[attr-defined]
        for chain in chains:
            jobs = [make_job(s, now, self._declared, repairs=self._repairs) for s in chain]
            self._calls[supervisor.train.remote(jobs)] = chain

    def collect(self) -> None:
        """Take in the chains that ended; a failure is noted and shown, the others go on."""
        ready, _ = ray.wait(list(self._calls), num_returns=len(self._calls), timeout=0) if self._calls else ([], [])
        for call in ready:
            chain = self._calls.pop(call)
            try:
                error = ray.get(call)
            except ray.exceptions.RayError as lost:
                error = first_cause(lost)
            if error is not None:
                self._now.require_lease()
                name = next((s.name for s in chain if self._now.run.student_done(s.name) is None), chain[0].name)
                self._now.failures[name] = error
                self._now.view.event({"kind": "student", "student": name, "state": "failed", "note": error})
                self._now.view.say(f"{name} FAILED: {error}; the others continue")

    @property
    def over(self) -> bool:
        return bool(self.started) and not self._calls

    def note(self, event: dict[str, Any]) -> None:
        """A student that reports has its place, until it is started again."""
        if event["kind"] == "student":
            self._heard.add(event["student"])
        elif event.get("restarts"):
            for names in map(_names, self._calls.values()):
                if event["student"] in names:
                    self._heard -= names

    def tell_waiting(self) -> None:
        """Name, once a minute, the students that are not at work yet, what they want, and what the cluster has."""
        waited = time.monotonic() - self.started
        if not self._calls or time.monotonic() - self._told < _STUDENTS_S:
            return
        self._told = time.monotonic()
        for chain in self._calls.values():
            if not self._heard.intersection(_names(chain)):
                wanted, nodes = wanted_place(chain[0].config.train), table(cluster_nodes())
                self._now.view.say(f"{chain[0].name} is not at work after {waited:.0f} s; it wants {wanted}; {nodes}")

    @property
    def settled(self) -> bool:
        """Whether all students have their places, or had a while to take them."""
        if not self.started:
            return False
        heard = all(self._heard.intersection(_names(chain)) for chain in self._calls.values())
        return heard or time.monotonic() - self.started > _STUDENTS_S


def _names(chain: list[Student]) -> set[str]:
    return {student.name for student in chain}


def watch(now: Attempt, teaching: Teaching | None, training: Training | None) -> None:
    """Show what happens until both are over. A teacher that ends in an error ends the run with its first cause.

    The least replicas are placed before students start, so that the two can't hold what the other waits for; more
    replicas take what students leave. A driver that was taken over ends here, naming who took over, and writes nothing
    more.
    """
    while True:
        now.require_lease(look=False)
        for event in now.drain():
            if teaching is not None:
                teaching.note(event)
            if training is not None:
                training.note(event)
        taught = teaching is None or teaching.over
        if training is not None:
            if not training.started and (teaching is None or teaching.placed):
                training.start()
            training.collect()
            training.tell_waiting()
        if teaching is not None and teaching.placed and (training is None or training.settled):
            teaching.grow()
        if taught and (training is None or training.over):
            now.drain()
            now.save_events()
            return
        time.sleep(_TICK_S)
