"""A replica: the thin Ray Data actor that leads one gang. It teaches a unit and commits it.

It loads no torch: the ranks do. A unit that is committed already is passed over, so a row that Ray Data runs again
after a fault costs nothing. A damaged unit is taught again and committed as its next revision.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray

from cluster.lease import Fence
from cluster.storage import open_storage
from workers.manifest import Manifest, plan_key, read_plan
from workers.progress import Reporter
from workers.splits import HELDOUT, TRAIN
from workers.targets.arrays import UnitTargets
from workers.targets.damage import DamagedShard, DamagedStore
from workers.targets.log import Entry
from workers.targets.store import TargetStore
from workers.teacher.answers import AnswerRules, AnswerSelection
from workers.teacher.commit import commit_unit
from workers.teacher.config import TeacherConfig
from workers.teacher.engine import CaptureSpec, TextRequest
from workers.teacher.gang import Gang
from workers.units import Prompt, UnitPlan

CALIBRATION_TOKENS = 2048
"""Tokens of each domain behind the table of ranks."""


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


class Replica:
    """A `map_batches` callable: rows {split, unit, repair} in, one row of facts per unit out.

    `repair` is the revision to make: 0 for a unit that is new.
    """

    def __init__(self, job: ReplicaJob) -> None:
        self._job = job
        self._storage = open_storage(job.run_uri)
        self._fence = Fence(self._storage, job.epoch)
        self._select = AnswerSelection(job.rules)
        self._said_nothing_is_kept = False
        self._report = Reporter(job.progress)
        self._gang = Gang(
            job.name, job.teacher, deadline_s=job.deadline_s, say=lambda text: self._report("teacher", note=text)
        )
        self._report("teacher", placed=job.name)
        self._report("teacher", ready=True, facts=self._gang.start(), name=job.name)
        self._stores: dict[str, tuple[TargetStore, Manifest]] = {}

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, Any]:
        rows = zip(batch["split"], batch["unit"], batch["repair"], strict=True)
        done = [self._teach(str(split), int(unit), int(repair)) for split, unit, repair in rows]
        return {"unit": batch["unit"], "split": batch["split"], "taught": np.array(done)}

    def _teach(self, split: str, unit: int, repair: int = 0) -> bool:
        """Teach one unit and commit it. False if it was committed already, or needs no repair. Raises LeaseLost."""
        store, manifest = self._open(split)
        if not store.has_ranks:
            self._calibrate(store)
        if store.log.entry(unit, repair) is not None:
            return False
        damaged = store.log.entry(unit, repair - 1) if repair else None
        if damaged is not None and self._reads_well(store, damaged):
            return False
        started = time.time()
        prompts = manifest.prompts(unit)
        targets = self._ask(requests_for(prompts), CaptureSpec.of(store.header, prompts[0].domains))
        targets, set_aside = self._kept(unit, targets, prompts) if split == TRAIN else (targets, [])
        entry = Entry.of(
            unit,
            store.write_part(unit, targets),
            targets,
            teacher=self._job.name,
            teacher_fingerprint=self._job.fingerprint,
            epoch=self._job.epoch,
            started=started,
            finished=time.time(),
            generated=_generated_tokens(targets, prompts),
            set_aside=tuple(set_aside),
            **(revision_of(damaged) if damaged is not None else {}),
        )
        won = commit_unit(store, entry, self._fence)
        self._report(
            "unit",
            unit=unit,
            split=split,
            taught=won,
            started=started,
            finished=entry.finished,
            rows=entry.rows,
            targets=entry.targets,
            tokens=entry.tokens,
            bytes=entry.size,
            set_aside=len(entry.set_aside),
            repair=repair,
            content_changed=entry.content_changed,
        )
        return won

    def _kept(self, unit: int, targets: UnitTargets, prompts: list[Prompt]) -> tuple[UnitTargets, list[dict[str, Any]]]:
        """What is kept of a unit's answers, and what is set aside. Says once where nothing is kept: a filter that fails
        on every answer would else cost the whole teacher's pass before anybody looks."""
        kept, set_aside = self._select(targets, prompts)
        if set_aside and not kept.rows and not self._said_nothing_is_kept:
            self._said_nothing_is_kept = True
            first = f"all {len(set_aside)} answers are set aside, the first because: {set_aside[0]['reason']}"
            self._report("teacher", note=f"{self._job.name}, unit {unit}: {first}")
        return kept, set_aside

    def _reads_well(self, store: TargetStore, entry: Entry) -> bool:
        """Whether a unit that is thought damaged is as it was committed; its mark is then taken away."""
        try:
            store.read_unit(entry)
        except DamagedShard:
            return False
        store.log.marks.withdraw(entry.unit, entry.revision)
        self._report("teacher", note=f"unit {entry.unit} of the {store.split} store was marked damaged but reads fine")
        return True

    def _calibrate(self, store: TargetStore) -> None:
        """Make the store's table of ranks from the teacher's distributions on texts that it will not hold.

        Raises DamagedStore if there was a table before: another one could give what is taught already another meaning.
        """
        if any(entry.parts for entry in store.log.entries()):
            raise DamagedStore(
                f"{' and '.join(store.rank_files.keys)}, which every shard of the store needs, are lost; put one back "
                "from a backup, or start again under another run name"
            )
        split = HELDOUT if self._storage.exists(plan_key(HELDOUT)) else store.split
        requests = calibration_texts(read_plan(self._storage, split), Manifest(self._storage, split))
        if requests:
            spec = CaptureSpec.of(store.header, (), marginal=True)
            store.rank_files.create(self._ask(requests, spec).marginal)

    def _ask(self, requests: list[TextRequest], spec: CaptureSpec) -> UnitTargets:
        try:
            return self._gang.run(requests, spec)
        except ray.exceptions.RayActorError as error:
            # The gang cannot go on without a rank. Leaving makes Ray Data start this leader anew, which frees the old
            # gang's place and takes another; raising would keep the broken gang and retry on it.
            self._report("teacher", note=f"{self._job.name} lost a rank: {error}".splitlines()[0], failed=True)
            time.sleep(1)
            os._exit(1)

    def _open(self, split: str) -> tuple[TargetStore, Manifest]:
        if split not in self._stores:
            store = TargetStore(self._storage, split)
            self._stores[split] = (store, Manifest(self._storage, split))
            if store.header.sampled and store.has_ranks:
                for problem in store.rank_files.mend():
                    self._report("teacher", note=f"{problem}; written anew from its copy")
        return self._stores[split]


def revision_of(damaged: Entry) -> dict[str, Any]:
    """The fields of an entry that say which one it is instead of."""
    return {
        "revision": damaged.revision + 1,
        "supersedes": damaged.parts[0].key,
        "supersedes_content_hash": damaged.content_hash,
    }


def requests_for(prompts: list[Prompt]) -> list[TextRequest]:
    """The texts of a unit: one per prompt and sample."""
    return [
        TextRequest(
            p.id,
            sample,
            p.prompt_ids,
            p.answer_ids,
            p.temperature,
            p.top_p,
            p.max_new_tokens,
            p.min_new_tokens,
            p.stop,
        )
        for p in prompts
        for sample in range(1 if p.answer_ids is not None else p.samples)
    ]


def calibration_texts(plan: UnitPlan, manifest: Manifest) -> list[TextRequest]:
    """A few given texts of every domain, to be scored: prompts and, where they are given, answers."""
    requests: list[TextRequest] = []
    for domain in plan.domains:
        tokens = 0
        for prompt in (p for unit in plan.of_domain(domain) for p in manifest.prompts(unit)):
            ids = (prompt.prompt_ids + (prompt.answer_ids or []))[:CALIBRATION_TOKENS]
            if len(ids) > 1:
                requests.append(TextRequest(f"calibration/{prompt.id}", 0, ids[:1], ids[1:]))
                tokens += len(ids)
            if tokens >= CALIBRATION_TOKENS:
                break
    return requests


def _generated_tokens(targets: UnitTargets, prompts: list[Prompt]) -> int:
    asked = {p.id: len(p.prompt_ids) for p in prompts if p.answer_ids is None}
    return sum(int(n) - asked[i] for i, n in zip(targets.prompt_ids, targets.lengths, strict=True) if i in asked)
