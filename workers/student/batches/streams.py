"""The rows that a student trains on: of its run's store, with those of older generations between them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from cluster.storage import Storage, open_storage
from workers.manifest import Manifest, read_plan
from workers.splits import TRAIN
from workers.student.batches.texts import shape_rows
from workers.student.config import TextsConfig
from workers.student.losses.teacher_states import read_heads
from workers.student.training.job import ReplayedRun, SpecialistJob
from workers.targets.commits.damage import DamagedShard
from workers.targets.reader import Cursor, DomainPosition, Shape, TargetRow, TargetStream
from workers.targets.replay import ReplayStream, RowStream
from workers.targets.shared_units import SharedUnits
from workers.targets.store import TargetStore
from workers.units import UnitPlan


class StudentRows:
    """The rows of one student, and the heads that make distributions of hidden states among them."""

    def __init__(self, job: SpecialistJob, storage: Storage) -> None:
        self._job, self._storage = job, storage
        self._rules = TextsConfig.model_validate(job.texts)
        self._plan = _plan(job, storage)

    def heads(self, domains: list[str], device: str) -> dict[str, Any]:
        """Those of teachers that answered prompts of some domains, by the name that rows have, on a device."""
        found = read_heads(self._store(), self._plan, domains, device, self._job.name)
        for run in self._job.replay:
            own = read_heads(_store(run), _plan(self._job, open_storage(run.uri)), domains, device, self._job.name)
            found |= {_teacher_of(run, name): head for name, head in own.items()}
        return found

    def open(
        self,
        cursor: Cursor | None,
        on_wait: Callable[[int, float], None],
        on_damage: Callable[[DamagedShard], None],
        shared: SharedUnits | None,
    ) -> RowStream:
        """The rows from a cursor on; from the first one where there is none."""
        job, share = self._job, 1 / (1 + len(self._job.replay))
        new = TargetStream(
            *(self._store(), self._plan, job.mix, job.seed, cursor),
            on_wait=on_wait,
            on_damage=on_damage,
            name=job.name,
            shared=shared,
            shape=text_shape(self._storage, self._rules),
            cache_share=share,
        )
        if not job.replay:
            return new
        replayed: Mapping[str, Cursor] = cursor.replayed if cursor is not None else {}
        older = {run.name: self._replayed(run, replayed.get(run.name), shared, share) for run in job.replay}
        return ReplayStream(new, older, job.replay_share)

    def _replayed(
        self, run: ReplayedRun, cursor: Cursor | None, shared: SharedUnits | None, cache_share: float
    ) -> TargetStream:
        """Rows of an older generation. They begin in a later epoch, in which units are drawn in an order of its own: a
        small share is of them all, and of others in each generation that replays them."""
        job, storage = self._job, open_storage(run.uri)
        plan = _plan(job, storage)
        start = Cursor({d: DomainPosition(epoch=run.epoch) for d in sorted(run.mix)}, plan.generation)
        return TargetStream(
            *(_store(run), plan, run.mix, job.seed, cursor or start),
            on_damage=partial(_refuse, run),
            name=job.name,
            shared=shared,
            shape=partial(_renamed, run, text_shape(storage, self._rules)),
            cache_share=cache_share,
        )

    def _store(self) -> TargetStore:
        store = TargetStore(self._storage, TRAIN)
        self._job.declared.check(store.header, self._job.name)
        return store


def text_shape(storage: Storage, rules: TextsConfig) -> Shape:
    """The rows of a unit as `rules` want them. Called from several threads."""
    if not rules.mask_prompts:
        return lambda unit, rows: shape_rows(rows, rules, None)
    manifest = Manifest(storage, TRAIN)
    return lambda unit, rows: shape_rows(rows, rules, manifest.prompt_lengths(unit))


def _plan(job: SpecialistJob, storage: Storage) -> UnitPlan:
    plan = read_plan(storage, TRAIN)
    return plan.given() if job.given_only else plan


def _store(run: ReplayedRun) -> TargetStore:
    store = TargetStore(open_storage(run.uri), TRAIN)
    run.declared.check(store.header, f"the replay of generation {run.name}")
    return store


def _teacher_of(run: ReplayedRun, teacher: str) -> str:
    """What a teacher of an older generation is called: there may be another one of its name now."""
    return f"{teacher}@{run.name}"


def _renamed(run: ReplayedRun, shape: Shape, unit: int, rows: list[TargetRow]) -> list[TargetRow]:
    return [replace(row, teacher=_teacher_of(run, row.teacher)) for row in shape(unit, rows)]


def _refuse(run: ReplayedRun, damage: DamagedShard) -> None:
    """Nobody recomputes an older generation's units meanwhile."""
    said = f"of generation {run.name}, which is replayed: {damage.reason}"
    remedy = (
        f"it is marked; `stillhouse capture CONFIG` with that generation's configuration recomputes it ({run.uri}), "
        "then training resumes from its last checkpoint"
    )
    raise DamagedShard(damage.unit, damage.revision, damage.part, said, remedy)
