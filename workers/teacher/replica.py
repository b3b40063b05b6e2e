"""A replica: the thin Ray Data actor that leads one gang. It teaches a unit and commits it.

It loads no torch: the ranks do. A unit that is committed already is passed over, so a row that Ray Data runs again
after a fault costs nothing. A damaged unit is taught again and committed as its next revision.
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
from workers.manifest import Manifest, plan_key, read_plan
from workers.progress import Reporter
from workers.splits import HELDOUT
from workers.targets.arrays import UnitTargets
from workers.targets.damage import DamagedShard, DamagedStore
from workers.targets.log import Entry
from workers.targets.store import TargetStore
from workers.teacher.commit import commit_unit
from workers.teacher.config import TeacherConfig
from workers.teacher.engine import CaptureSpec, TextRequest
from workers.teacher.leader import Leader
from workers.teacher.place import wanted_place
from workers.teacher.recovery import CannotTeach
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
    withhold: dict[str, list[str]]
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
        self._storage = open_storage(job.run_uri)
        self._fence = Fence(self._storage, job.epoch)
        self._report = Reporter(job.progress)
        self._stores: dict[str, tuple[TargetStore, Manifest]] = {}
        self._at_work = False
        self._group: Any = None
        self._leader = Leader(job.teacher, f"teacher {job.name}", place=self._find_place, say=self._say)
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
        rows = zip(batch["split"], batch["unit"], batch["repair"], strict=True)
        done = [self._take(str(split), int(unit), int(repair)) for split, unit, repair in rows]
        return {"unit": batch["unit"], "split": batch["split"], "taught": np.array(done)}

    def _take(self, split: str, unit: int, repair: int) -> bool:
        """Teach a unit, as one that the pool knows to be taken."""
        ray.get(self._pool.begin.remote(self._me, (split, unit, repair)))
        self._at_work = True
        try:
            if self._group is not None and state_of(self._group) == "REMOVED":
                self._leader.close()  # the pool thought that it was done here
            return self._teach(split, unit, repair)
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

    def _teach(self, split: str, unit: int, repair: int = 0) -> bool:
        """Teach one unit and commit it. False if it was committed already, or needs no repair. Raises LeaseLost."""
        store, manifest = self._open(split)
        if store.log.entry(unit, repair) is not None:
            return False
        if not store.has_ranks:
            self._calibrate(store)
        damaged = store.log.entry(unit, repair - 1) if repair else None
        if damaged is not None and self._reads_well(store, damaged):
            return False
        started = time.time()
        prompts = manifest.prompts(unit)
        spec = CaptureSpec.of(store.header, prompts[0].domains)
        answer = self._leader.teach(f"unit {unit} of the {split} store", requests_for(prompts), spec)
        targets, withheld = drop_withheld(answer.targets, prompts, self._job.withhold if split == "train" else {})
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
            set_aside=(*answer.set_aside, *withheld),
            budget=answer.budget,
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
            store.rank_files.create(self._leader.run(requests, spec).marginal)

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
        TextRequest(p.id, sample, p.prompt_ids, p.answer_ids, p.temperature, p.top_p, p.max_new_tokens)
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


def drop_withheld(
    targets: UnitTargets, prompts: list[Prompt], withhold: dict[str, list[str]]
) -> tuple[UnitTargets, list[dict[str, Any]]]:
    """Take out texts that contain a word withheld from one of their domains; returns what was set aside and why."""
    domains = {p.id: p.domains for p in prompts}
    keep, set_aside = [], []
    for r, (prompt_id, text) in enumerate(zip(targets.prompt_ids, targets.texts, strict=True)):
        found = [w for d in domains[prompt_id] for w in withhold.get(d, ()) if w in text]
        if found:
            set_aside.append(
                {"id": prompt_id, "sample": int(targets.samples[r]), "reason": f"contains the withheld {found[0]!r}"}
            )
        else:
            keep.append(r)
    return (targets if len(keep) == targets.rows else targets.select(np.array(keep, np.int64))), set_aside


def _generated_tokens(targets: UnitTargets, prompts: list[Prompt]) -> int:
    asked = {p.id: len(p.prompt_ids) for p in prompts if p.answer_ids is None}
    return sum(int(n) - asked[i] for i, n in zip(targets.prompt_ids, targets.lengths, strict=True) if i in asked)
