"""What a replica does with units: looks whether they are wanted still, has their texts made, commits them.

A unit that is committed already is passed over, so a row that Ray Data runs again after a fault costs nothing. A
damaged unit is recomputed and committed as its next revision.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from cluster.lease import Fence
from cluster.storage import Storage
from workers.channels.events import Event, Message, UnitCommitted
from workers.manifest import Manifest, is_frozen, read_plan
from workers.splits import HELDOUT, TRAIN
from workers.targets.commits.damage import DamagedShard, DamagedStore
from workers.targets.commits.log import Entry
from workers.targets.encoding.arrays import UnitTargets
from workers.targets.store import TargetStore
from workers.teacher.engine import CaptureSpec, TextRequest
from workers.teacher.groups.fault_tolerant_group import Answer
from workers.teacher.units.answers import AnswerRules, AnswerSelection
from workers.teacher.units.commit import commit_unit
from workers.units import Prompt, UnitPlan

CALIBRATION_TOKENS = 2048
"""Tokens of each domain behind the vocabulary order."""

Row = tuple[str, int, int]
"""Split, unit, and the revision to make: 0 for a unit that is new."""


class TextMaker(Protocol):
    """What makes texts: what runs a worker group (FaultTolerantGroup)."""

    def run(self, requests: list[TextRequest], spec: CaptureSpec) -> UnitTargets: ...

    def capture(self, unit: str, requests: list[TextRequest], spec: CaptureSpec) -> Answer: ...


@dataclass(frozen=True)
class _Wanted:
    """A unit that is to be captured."""

    split: str
    unit: int
    store: TargetStore
    prompts: list[Prompt]
    spec: CaptureSpec
    damaged: Entry | None


class UnitRunner:
    """Captures and commits units of one run with one teacher."""

    def __init__(
        self,
        storage: Storage,
        maker: TextMaker,
        fence: Fence,
        report: Callable[[Event], None],
        *,
        teacher: str,
        fingerprint: str,
        rules: AnswerRules,
    ) -> None:
        self._storage, self._maker, self._fence, self._report = storage, maker, fence, report
        self._teacher, self._fingerprint, self._select = teacher, fingerprint, AnswerSelection(rules)
        self._said_nothing_is_kept = False
        self._stores: dict[str, tuple[TargetStore, Manifest]] = {}

    def capture(self, rows: Sequence[Row]) -> list[bool]:
        """Capture units and commit each; of every row whether this call did. Raises LeaseLost, and what the maker
        raises.

        Units whose texts are captured alike are made together, so that their texts share batches.
        """
        wanted = {row: work for row in rows if (work := self._wanted(*row)) is not None}
        together: dict[CaptureSpec, list[Row]] = {}
        for row, work in wanted.items():
            together.setdefault(work.spec, []).append(row)
        won: dict[Row, bool] = {}
        for spec, group in together.items():
            won |= self._capture_together(spec, {row: wanted[row] for row in group})
        return [won.get(row, False) for row in rows]

    def _capture_together(self, spec: CaptureSpec, works: dict[Row, _Wanted]) -> dict[Row, bool]:
        started = time.time()
        requests = [r for work in works.values() for r in requests_for(work.prompts)]
        units = " and ".join(f"unit {w.unit} of the {w.split} store" for w in works.values())
        answer = self._maker.capture(units, requests, spec)
        return {row: self._commit(work, _part_of(answer, work, len(works)), started) for row, work in works.items()}

    def _wanted(self, split: str, unit: int, repair: int) -> _Wanted | None:
        """What is to be done for a row. None if the unit was committed already, or needs no repair."""
        store, manifest = self._open(split)
        if store.log.entry(unit, repair) is not None:
            return None
        if not store.has_vocab_order:
            self._calibrate(store)
        damaged = store.log.entry(unit, repair - 1) if repair else None
        if damaged is not None and self._reads_well(store, damaged):
            return None
        prompts = manifest.prompts(unit)
        return _Wanted(split, unit, store, prompts, CaptureSpec.of(store.header, prompts[0].domains), damaged)

    def _commit(self, work: _Wanted, answer: Answer, started: float) -> bool:
        whole = answer.targets
        targets, refused = self._kept(work, whole) if work.split == TRAIN else (whole, [])
        entry = Entry.of(
            work.unit,
            work.store.write_part(work.unit, targets),
            targets,
            teacher=self._teacher,
            teacher_fingerprint=self._fingerprint,
            epoch=self._fence.epoch,
            started=started,
            finished=time.time(),
            generated=_generated_tokens(targets, work.prompts),
            rejected=(*answer.rejected, *refused),
            batch_scale=answer.batch_scale,
            **(revision_of(work.damaged) if work.damaged is not None else {}),
        )
        won = commit_unit(work.store, entry, self._fence)
        self._report(
            UnitCommitted(
                split=work.split,
                unit=work.unit,
                won=won,
                started=started,
                finished=entry.finished,
                rows=entry.rows,
                tokens=entry.tokens,
                targets=entry.targets,
                bytes=entry.size,
                rejected=len(entry.rejected),
                revision=entry.revision,
                content_changed=entry.content_changed,
            )
        )
        return won

    def _kept(self, work: _Wanted, whole: UnitTargets) -> tuple[UnitTargets, list[dict[str, Any]]]:
        """What is kept of a unit's answers, and what is rejected. Says once where nothing is kept: a filter that fails
        on every answer would else cost the whole teacher's pass before anybody looks."""
        kept, rejected = self._select(whole, work.prompts)
        if rejected and not kept.rows and not self._said_nothing_is_kept:
            self._said_nothing_is_kept = True
            first = f"all {len(rejected)} answers are rejected, the first because: {rejected[0]['reason']}"
            self._say(f"{self._teacher}, unit {work.unit}: {first}")
        return kept, rejected

    def _reads_well(self, store: TargetStore, entry: Entry) -> bool:
        """Whether a unit that is thought damaged is as it was committed; its mark is then taken away."""
        try:
            store.read_unit(entry)
        except DamagedShard:
            return False
        store.log.marks.withdraw(entry.unit, entry.revision)
        self._say(f"unit {entry.unit} of the {store.split} store was marked damaged but reads fine")
        return True

    def _say(self, text: str) -> None:
        self._report(Message(text=text))

    def _calibrate(self, store: TargetStore) -> None:
        """Make the store's vocabulary order from the teacher's distributions on texts that it will not hold.

        Raises DamagedStore if there was a table before: another one could give what is captured already another
        meaning.
        """
        if any(entry.parts for entry in store.log.each()):
            raise DamagedStore(
                f"{' and '.join(store.vocab_order_files.keys)}, which every shard of the store needs, are lost; "
                "put one back from a backup, or start again under another run name"
            )
        split = HELDOUT if is_frozen(self._storage, HELDOUT) else store.split
        requests = calibration_texts(read_plan(self._storage, split), Manifest(self._storage, split))
        if requests:
            spec = CaptureSpec.of(store.header, (), marginal=True)
            store.vocab_order_files.create(self._maker.run(requests, spec).marginal)

    def _open(self, split: str) -> tuple[TargetStore, Manifest]:
        if split not in self._stores:
            store = TargetStore(self._storage, split)
            self._stores[split] = (store, Manifest(self._storage, split))
            if store.header.sampled and store.has_vocab_order:
                for problem in store.vocab_order_files.fix():
                    self._say(f"{problem}; written anew from its copy")
        return self._stores[split]


def revision_of(damaged: Entry) -> dict[str, Any]:
    """The fields of an entry that say which one it is instead of."""
    return {
        "revision": damaged.revision + 1,
        "supersedes": damaged.parts[0].key,
        "supersedes_content_hash": damaged.content_hash,
    }


def _part_of(answer: Answer, work: _Wanted, units: int) -> Answer:
    """Of an answer to several units' texts what belongs to one."""
    if units == 1:
        return answer
    mine = {p.id for p in work.prompts}
    rows = np.array([i for i, prompt in enumerate(answer.targets.prompt_uids) if prompt in mine], np.int64)
    rejected = [item for item in answer.rejected if item["id"] in mine]
    return Answer(answer.targets.select(rows), rejected, answer.batch_scale)


def requests_for(prompts: list[Prompt]) -> list[TextRequest]:
    """The texts of a unit: one per prompt and sample."""
    return [
        TextRequest(
            p.id,
            sample,
            p.prompt_token_ids,
            p.answer_token_ids,
            p.temperature,
            p.top_p,
            p.max_new_tokens,
            p.min_new_tokens,
            p.stop,
        )
        for p in prompts
        for sample in range(1 if p.answer_token_ids is not None else p.samples)
    ]


def calibration_texts(plan: UnitPlan, manifest: Manifest) -> list[TextRequest]:
    """A few given texts of every domain, to be scored: prompts and, where they are given, answers."""
    requests: list[TextRequest] = []
    for domain in plan.domains:
        tokens = 0
        for prompt in (p for unit in plan.of_domain(domain) for p in manifest.prompts(unit)):
            ids = (prompt.prompt_token_ids + (prompt.answer_token_ids or []))[:CALIBRATION_TOKENS]
            if len(ids) > 1:
                requests.append(TextRequest(f"calibration/{prompt.id}", 0, ids[:1], ids[1:]))
                tokens += len(ids)
            if tokens >= CALIBRATION_TOKENS:
                break
    return requests


def _generated_tokens(targets: UnitTargets, prompts: list[Prompt]) -> int:
    asked = {p.id: len(p.prompt_token_ids) for p in prompts if p.answer_token_ids is None}
    return sum(int(n) - asked[i] for i, n in zip(targets.prompt_uids, targets.lengths, strict=True) if i in asked)
