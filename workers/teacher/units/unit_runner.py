"""What a replica does with units: looks whether they are wanted still, has their texts made, commits them.

A unit that is committed already is passed over, so a row that Ray Data runs again after a fault costs nothing. A
damaged unit is recomputed and committed as its next revision.

`capture` may be called by several threads, which take turns in the order in which they come: one has texts made, while
another commits what was made before (detokenises, selects, hashes, encodes, uploads, makes the entry), and a third has
looked up what is to be made next. So the ranks are at work while their last units are committed, and a call returns, or
raises what went wrong, when its own units exist.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
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

    def capture(
        self, unit: str, requests: list[TextRequest], spec: CaptureSpec, then: Sequence[TextRequest] = ()
    ) -> Answer: ...

    def detokenize(self, targets: UnitTargets) -> None:
        """Put the texts and their tokens' ends where `capture` left them to the commit; called by another thread."""


@dataclass(frozen=True)
class _Wanted:
    """A unit that is to be captured."""

    split: str
    unit: int
    prompts: list[Prompt]
    spec: CaptureSpec
    damaged: Entry | None


@dataclass(frozen=True)
class _Made:
    """A unit whose texts were made, not committed yet."""

    work: _Wanted
    answer: Answer
    started: float
    finished: float
    """Of the share that this unit has in the time that it was made in, by its tokens."""


_Call = dict[CaptureSpec, dict[Row, _Wanted]]
"""The units of one call of `capture`, by how they are captured."""


class UnitRunner:
    """Captures and commits units of one run with one teacher. With `begins_next`, texts of the next call that waits are
    begun in slots that the last texts of a call leave (TeacherConfig.begins_next)."""

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
        begins_next: bool = False,
    ) -> None:
        self._storage, self._maker, self._fence, self._report = storage, maker, fence, report
        self._teacher, self._fingerprint, self._select = teacher, fingerprint, AnswerSelection(rules)
        self._said_nothing_is_kept = False
        self._stores: dict[str, tuple[TargetStore, Manifest]] = {}
        self._commit_stores: dict[str, TargetStore] = {}  # of the thread that commits
        self._calibrated: set[str] = set()
        self._begins_next = begins_next
        self._turn, self._queue, self._making = threading.Condition(), deque[_Call](), False
        self._looking, self._committing = threading.Lock(), threading.Lock()

    def capture(self, rows: Sequence[Row]) -> list[bool]:
        """Capture units and commit each; of every row whether this call did. Raises LeaseLost, and what the maker
        raises.

        Units whose texts are captured alike are made together, so that their texts share batches.
        """
        call = self._prepared(rows)
        with self._turn:
            self._queue.append(call)
            self._turn.wait_for(lambda: not self._making and self._queue[0] is call)
            self._making = True
            self._queue.popleft()
        try:
            made = self._make(call)
            self._committing.acquire()  # before another call makes more: no more than its units wait for their commit
        finally:
            with self._turn:
                self._making = False
                self._turn.notify_all()
        try:
            won = {row: self._commit(unit) for row, unit in made.items()}
        finally:
            self._committing.release()
        return [won.get(row, False) for row in rows]

    def _prepared(self, rows: Sequence[Row]) -> _Call:
        """What is to be made, looked up while other units are made."""
        call: _Call = {}
        with self._looking:
            wanted = {row: work for row in rows if (work := self._wanted(*row)) is not None}
            for row, work in wanted.items():
                call.setdefault(work.spec, {})[row] = work
        return call

    def _make(self, call: _Call) -> dict[Row, _Made]:
        made: dict[Row, _Made] = {}
        for split in {work.split for works in call.values() for work in works.values()} - self._calibrated:
            with self._looking:
                self._calibrate(self._stores[split][0])
            self._calibrated.add(split)
        for number, (spec, works) in enumerate(call.items(), start=1):
            then = self._next(spec) if number == len(call) else []
            made |= self._make_together(spec, works, then)
        return made

    def _next(self, spec: CaptureSpec) -> list[TextRequest]:
        """The texts that are to be made after those at work, if they are captured alike and may be begun."""
        if not self._begins_next:
            return []
        with self._turn:
            following = self._queue[0] if self._queue else {}
        first = next(iter(following), None)
        return _requests(following[first].values()) if first is not None and first == spec else []

    def _make_together(self, spec: CaptureSpec, works: dict[Row, _Wanted], then: list[TextRequest]) -> dict[Row, _Made]:
        started = time.time()
        answer = self._maker.capture(_called(list(works.values())), _requests(works.values()), spec, then)
        answers = {row: _part_of(answer, work, len(works)) for row, work in works.items()}
        tokens = {row: int(own.targets.lengths.sum()) for row, own in answers.items()}
        second, made = (time.time() - started) / max(sum(tokens.values()), 1), {}
        for row, work in works.items():
            finished = started + tokens[row] * second
            made[row] = _Made(work, answers[row], started, finished)
            started = finished
        return made

    def _wanted(self, split: str, unit: int, repair: int) -> _Wanted | None:
        """What is to be done for a row. None if the unit was committed already, or needs no repair."""
        store, manifest = self._open(split)
        if store.log.entry(unit, repair) is not None:
            return None
        damaged = store.log.entry(unit, repair - 1) if repair else None
        if damaged is not None and store.has_vocab_order and self._reads_well(store, damaged):
            return None
        prompts = manifest.prompts(unit)
        return _Wanted(split, unit, prompts, CaptureSpec.of(store.header, prompts[0].domains), damaged)

    def _commit(self, made: _Made) -> bool:
        work, answer, whole = made.work, made.answer, made.answer.targets
        store = self._commit_stores.setdefault(work.split, TargetStore(self._storage, work.split))
        if whole.rows and not whole.texts:
            self._maker.detokenize(whole)
        targets, refused = self._kept(work, whole) if work.split == TRAIN else (whole, [])
        entry = Entry.of(
            work.unit,
            store.write_part(work.unit, targets),
            targets,
            teacher=self._teacher,
            teacher_fingerprint=self._fingerprint,
            epoch=self._fence.epoch,
            started=made.started,
            finished=made.finished,
            generated=_generated_tokens(targets, work.prompts),
            rejected=(*answer.rejected, *refused),
            batch_scale=answer.batch_scale,
            **(revision_of(work.damaged) if work.damaged is not None else {}),
        )
        won = commit_unit(store, entry, self._fence)
        self._report(
            UnitCommitted(
                split=work.split,
                unit=work.unit,
                won=won,
                started=entry.started,
                finished=entry.finished,
                rows=entry.rows,
                tokens=entry.tokens,
                targets=entry.targets,
                bytes=entry.size,
                rejected=len(entry.rejected),
                revision=entry.revision,
                content_changed=entry.content_changed,
                teacher=self._teacher,
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
        """Make the store's vocabulary order, if it has none, from the teacher's distributions on texts that it will not
        hold.

        Raises DamagedStore if there was a table before: another one could give what is captured already another
        meaning.
        """
        if store.has_vocab_order:
            return
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


def _called(works: list[_Wanted]) -> str:
    """Units as messages call them."""
    first, *others, last = (f"unit {w.unit} of the {w.split} store" for w in (works[0], *works))
    if not others:
        return first
    return f"{first} and {last}" if len(others) == 1 else f"the {len(works)} units from {first} to {last}"


def _part_of(answer: Answer, work: _Wanted, units: int) -> Answer:
    """Of an answer to several units' texts what belongs to one."""
    if units == 1:
        return answer
    mine = {p.id for p in work.prompts}
    rows = np.array([i for i, prompt in enumerate(answer.targets.prompt_uids) if prompt in mine], np.int64)
    rejected = [item for item in answer.rejected if item["id"] in mine]
    return Answer(answer.targets.select(rows), rejected, answer.batch_scale)


def _requests(works: Iterable[_Wanted]) -> list[TextRequest]:
    return [request for work in works for request in requests_for(work.prompts)]


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
