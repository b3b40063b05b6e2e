"""The teachers' side of a run: one pool for each teacher's missing units, all at once."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from cluster.placement import beside_driver, free_groups_of_the_dead
from orchestrator.driver.calls import take_ended
from orchestrator.driver.digesting import Digesting
from orchestrator.runs.context import RunContext
from orchestrator.runs.errors import RunFailed
from orchestrator.stages.capture import missing_units, pool_size
from orchestrator.stages.repairs import rows_of_marked
from orchestrator.stages.teacher_pool import TeacherPool
from workers.channels.events import CaptureStarted
from workers.channels.messages import (
    CaptureStopped,
    ControlMessage,
    DamageFound,
    ReplicaLost,
    ReplicaPlaced,
    UnitCaptured,
)
from workers.failures import end_of_actor, first_cause
from workers.manifest import read_plan
from workers.splits import TRAIN

_MOST_LOSSES = 3
"""Replicas or pools of a teacher lost in a row, with no unit captured between, before the run stops: it would not get
better by itself."""

_FREEING_S = 60.0
"""Seconds after a pass in which places of its replicas may come to be nobody's, as Ray notices who died with the pool.
Ray would keep them, and their nodes, until the run ends."""

_FREE_AGAIN_S = 1.0
"""Seconds between two looks for them."""


@dataclass(frozen=True)
class CaptureStatus:
    """How far the teachers are."""

    placed: bool
    """Whether the least replicas of all have their places, or need none."""
    over: bool


class Captures:
    """The passes over missing units.

    Units that students find damaged are recomputed in a further pass, when the teacher's present one is over: two
    pools of one teacher could hold what the other waits for.
    """

    def __init__(self, ctx: RunContext, work: dict[str, list[dict[str, Any]]]) -> None:
        self._ctx = ctx
        self._calls: dict[Any, str] = {}
        self._pools: dict[str, Any] = {}
        self._asked: dict[str, list[dict[str, Any]]] = {}
        """The rows of each teacher's last pass."""
        self._damaged: dict[str, set[int]] = {}
        self._losses: dict[str, list[str]] = {}
        self._growing = False
        self._freeing_until = self._freed = 0.0
        self._digesting = Digesting(ctx)
        self._teacher_of: dict[int, str] | None = None
        self._unplaced: dict[str, int] = {}
        names = sorted(name for name, rows in work.items() if rows)
        if not names:
            ctx.say("nothing to capture: every planned unit is committed")
        for name in names:
            self._unplaced[name] = pool_size(ctx.config.teachers[name], len(work[name]))[0]
            self._start(name, work[name])

    def grow(self) -> None:
        """Let replicas beyond the least look for a place."""
        if not self._growing:
            self._growing = True
            self._tell_pools()

    def take(self, message: ControlMessage) -> None:
        """Act on a message. Raises RunFailed for what stops a teacher, and for replicas that are lost again and again
        without a unit captured between."""
        match message:
            case CaptureStopped(teacher=teacher, cause=cause):
                raise RunFailed(f"{self._name(teacher)} stopped: {cause}")
            case UnitCaptured(teacher=teacher, split=split):
                self._losses.pop(teacher, None)
                self._digesting.note(split)
            case ReplicaLost(teacher=teacher, note=note):
                self._note_loss(teacher, note)
            case ReplicaPlaced(teacher=teacher, count=count):
                if count >= self._unplaced.get(teacher, count + 1):
                    del self._unplaced[teacher]
            case DamageFound(unit=unit):
                if self._teacher_of is None:  # a plan of 100,000 units takes seconds to read
                    plan = read_plan(self._ctx.run.storage, TRAIN)
                    self._teacher_of = {u.index: u.teacher for u in plan.units}
                self._damaged.setdefault(self._teacher_of[unit], set()).add(unit)

    def finished(self) -> list[tuple[str, BaseException | None]]:
        """The passes that ended since the last call, each with its error, if any."""
        return [(name, error) for name, _, error in take_ended(self._calls)]

    def poll(self, ended: list[tuple[str, BaseException | None]]) -> CaptureStatus:
        """Go on after the passes that ended: free their pools, and recompute what was found damaged meanwhile.

        Over are they when the last digest of what they captured is made too. Raises RunFailed with the first cause of
        a pass that failed.
        """
        for name, error in ended:
            del self._pools[name]
            self._unplaced.pop(name, None)
            self._freeing_until = time.monotonic() + _FREEING_S
            if error is not None:
                self._ctx.require_lease()
                if (how := end_of_actor(error)) is None:
                    raise RunFailed(f"{self._name(name)} stopped: {first_cause(error)}") from error
                self._start_again(name, f"the process that runs {self._name(name)} {how}")
            self._tell_pools()
        if self._freed + _FREE_AGAIN_S < (now := time.monotonic()) < self._freeing_until:
            self._freed = now
            free_groups_of_the_dead()
        self._start_repairs()
        captured = not self._calls
        digested = self._digesting.poll(over=captured)
        return CaptureStatus(placed=captured or not self._unplaced, over=captured and digested)

    def _name(self, teacher: str) -> str:
        """A teacher in a sentence."""
        return f"teacher {teacher}" if len(self._ctx.config.teachers) > 1 else "the teacher"

    def _note_loss(self, teacher: str, note: str) -> None:
        losses = self._losses.setdefault(teacher, [])
        losses.append(note)
        if len(losses) >= _MOST_LOSSES:
            raise RunFailed(f"{self._name(teacher)} stopped: {len(losses)} times in a row {losses[0]}")

    def _start_again(self, name: str, note: str) -> None:
        """Another pass over what a pool that died has left. Its replicas die with it; their places do not, and become
        free as Ray notices."""
        self._note_loss(name, note)
        asked = {(row["split"], row["unit"]) for row in self._asked[name]}
        missing = missing_units(self._ctx.run).get(name, [])
        if rows := [row for row in missing if (row["split"], row["unit"]) in asked]:
            self._ctx.say(f"{note}; what is not captured is begun again")
            self._start(name, rows, again=True)

    def _start(self, name: str, rows: list[dict[str, Any]], *, again: bool = False) -> None:
        """A pass over rows of missing units; `again`: a pool died that was to capture them."""
        self._asked[name] = rows
        ctx, teacher = self._ctx, self._ctx.config.teachers[name]
        least, most = pool_size(teacher, len(rows))
        repairs = sum(row["repair"] > 0 for row in rows)
        units = f"{len(rows)} units" + (f" ({repairs} recomputed, as they are damaged)" if repairs else "")
        ctx.say(f"teacher {name}: {units}, {least} to {most} replicas of {teacher.ep_size} ranks")
        ctx.report(CaptureStarted(teacher=name, units=len(rows), repairs=repairs, again=again))
        pool = TeacherPool.options(scheduling_strategy=beside_driver()).remote(len(rows), least)  # type: ignore[attr-defined]
        self._pools[name] = pool
        self._calls[pool.capture.remote(ctx.run.uri, ctx.config, name, rows, ctx.epoch, ctx.board)] = name
        self._tell_pools()

    def _tell_pools(self) -> None:
        """Let every pool know what the others do."""
        for pool in self._pools.values():
            pool.tell.remote(self._growing, len(self._pools) - 1)

    def _start_repairs(self) -> None:
        """A pass for the units that students reported, where their teacher is idle and they are damaged still."""
        for name in sorted(set(self._damaged) - set(self._calls.values())):
            if rows := rows_of_marked(self._ctx.run, TRAIN, self._damaged.pop(name)):
                self._start(name, rows)
