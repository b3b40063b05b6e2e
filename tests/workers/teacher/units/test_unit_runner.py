"""Commits beside generation: the next texts are made while units are committed, in order, and every error is raised."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from cluster.lease import Fence, LeaseLost
from cluster.storage import LocalStorage
from workers.channels.board import Reporter
from workers.manifest import write_manifest
from workers.targets.encoding.arrays import UnitTargets
from workers.targets.encoding.schema import StoreHeader
from workers.targets.store import TargetStore
from workers.teacher.engine import CaptureSpec, TextRequest
from workers.teacher.groups.fault_tolerant_group import Answer
from workers.teacher.units.answer_filter import FilterCode
from workers.teacher.units.answers import AnswerRules
from workers.teacher.units.unit_runner import UnitRunner
from workers.units import Prompt, Unit, UnitPlan

V, UNITS = 20, 6
PATIENCE_S = 30


class Maker:
    """Makes texts of two tokens without a model. `gates` are passed on the way: what a test opens goes on."""

    def __init__(self) -> None:
        self.made: list[str] = []
        self.begun: list[list[str]] = []
        self.detokenized: list[str] = []
        self.in_make, self.in_commit = threading.Semaphore(0), threading.Semaphore(0)
        self.commits = threading.Semaphore(0)
        self.fails: Exception | None = None
        self.runner: Any = None

    def run(self, requests: list[TextRequest], spec: CaptureSpec) -> UnitTargets:
        raise AssertionError("the store has its vocabulary order")

    def capture(
        self, unit: str, requests: list[TextRequest], spec: CaptureSpec, then: Sequence[TextRequest] = ()
    ) -> Answer:
        self.made.append(requests[0].prompt_uid)
        self.begun.append([r.prompt_uid for r in then])
        self.in_make.release()
        if self.fails is not None:
            raise self.fails
        n, T = len(requests), 2 * len(requests)
        return Answer(
            UnitTargets(
                prompt_uids=[r.prompt_uid for r in requests],
                samples=np.zeros(n, np.uint16),
                lengths=np.full(n, 3),
                starts=np.ones(n, np.int64),
                tokens=np.full(3 * n, 5, np.uint32),
                entropy=np.zeros(T, np.float32),
                token_logprob=np.zeros(T, np.float32),
                num_kept=np.ones(T, np.uint16),
                ids=np.full(T, 5, np.uint32),
                counts=np.full(T, 21, np.uint16),
            )
        )

    def detokenize(self, targets: UnitTargets) -> None:
        """Where a commit begins: a test lets each of them go on."""
        self.detokenized.append(targets.prompt_uids[0])
        self.in_commit.release()
        assert self.commits.acquire(timeout=PATIENCE_S)
        targets.texts = ["abc"] * targets.rows
        targets.ends = np.tile(np.array([1, 2, 3], np.uint32), targets.rows)


@pytest.fixture
def store(local: LocalStorage) -> TargetStore:
    blocks = [[Prompt(f"u{u}", ("a",), "t", 1, 1.0, 1.0, 2, [5], None)] for u in range(UNITS)]
    write_manifest(local, UnitPlan("train", tuple(Unit(u, ("a",), "t", 1, 2, True) for u in range(UNITS))), blocks)
    store = TargetStore(local, "train")
    store.create(StoreHeader("systematic", 21, "answer", "float32", V, "tokenizer", "template", 7))
    store.vocab_order_files.create(np.arange(V, dtype=float))
    return store


@pytest.fixture
def start(local: LocalStorage, store: TargetStore) -> Any:
    """A runner with a maker and a pool of threads for its calls, as Ray Data has."""
    pool = ThreadPoolExecutor(4)

    def started(
        rules: AnswerRules | None = None, *, begins_next: bool = False
    ) -> tuple[Maker, Callable[[int], Future[list[bool]]]]:
        maker, fence = Maker(), Fence(local, 1)
        runner = UnitRunner(
            local,
            maker,
            fence,
            Reporter(""),
            teacher="t",
            fingerprint="f",
            rules=rules or AnswerRules(),
            begins_next=begins_next,
        )
        maker.runner = runner
        return maker, lambda unit: pool.submit(runner.capture, [("train", unit, 0)])

    yield started
    pool.shutdown()


def waits_in_turn(maker: Maker, calls: int) -> None:
    """So many calls wait until they may have texts made."""
    deadline = time.monotonic() + PATIENCE_S
    while len(maker.runner._queue) < calls:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def reached(gate: threading.Semaphore) -> None:
    assert gate.acquire(timeout=PATIENCE_S)


def test_the_next_unit_is_made_while_one_is_committed_and_no_third(start: Any, store: TargetStore) -> None:
    maker, capture = start()
    first = capture(0)
    reached(maker.in_commit)
    second = capture(1)
    reached(maker.in_make), reached(maker.in_make)
    third = capture(2)
    assert not maker.in_make.acquire(timeout=0.3), "two units wait for their commit: that is all that is held"
    assert maker.made == ["u0", "u1"] and not first.done() and not second.done()
    assert store.log.committed() == set(), "a call ends when its unit exists, not before"
    maker.commits.release()
    assert first.result(PATIENCE_S) == [True] and store.log.committed() == {0}
    reached(maker.in_make)
    assert not third.done()
    for _ in range(2):
        maker.commits.release()
    assert second.result(PATIENCE_S) == third.result(PATIENCE_S) == [True]
    assert maker.detokenized == maker.made == ["u0", "u1", "u2"]
    entries = store.log.entries()
    assert [e.unit for e in entries] == [0, 1, 2]
    assert store.read_unit(entries[2]).texts == ["abc"]


@pytest.mark.parametrize("begins_next", [True, False])
def test_the_next_call_that_waits_is_begun_where_it_may_be(start: Any, store: TargetStore, begins_next: bool) -> None:
    maker, capture = start(begins_next=begins_next)
    calls = [capture(0)]
    reached(maker.in_commit)
    calls.append(capture(1))
    for _ in range(2):
        reached(maker.in_make)  # the second is made, and waits for the first one's commit
    for unit in (2, 3):
        calls.append(capture(unit))
        waits_in_turn(maker, unit - 1)
    for _ in calls:
        maker.commits.release()
    assert all(call.result(PATIENCE_S) == [True] for call in calls)
    assert maker.made == ["u0", "u1", "u2", "u3"]
    assert maker.begun == [[], [], ["u3"] if begins_next else [], []]


def test_a_commit_that_fails_is_raised_by_its_call_and_the_next_goes_on(start: Any, store: TargetStore) -> None:
    rules = AnswerRules(filter=FilterCode("f.py", "missing", "x = 1"))
    maker, capture = start(rules)
    calls = [capture(0), capture(1)]
    for _ in range(2):
        maker.commits.release()
    for call in calls:
        with pytest.raises(ValueError, match=r"answers.filter: f.py:missing cannot be loaded"):
            call.result(PATIENCE_S)
    assert store.log.committed() == set() and sorted(maker.made) == ["u0", "u1"]


def test_a_driver_that_was_taken_over_commits_nothing_that_was_made(
    start: Any, store: TargetStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def check(self: Fence) -> None:
        raise LeaseLost("attempt 1 was taken over by attempt 2")

    maker, capture = start()
    call = capture(0)
    reached(maker.in_commit)
    monkeypatch.setattr(Fence, "check", check)
    maker.commits.release()
    with pytest.raises(LeaseLost, match="taken over"):
        call.result(PATIENCE_S)
    assert store.log.committed() == set()


def test_a_maker_that_fails_leaves_the_commit_before_it_alone(start: Any, store: TargetStore) -> None:
    maker, capture = start()
    first = capture(0)
    reached(maker.in_commit)
    maker.fails = RuntimeError("the ranks are gone")
    with pytest.raises(RuntimeError, match="the ranks are gone"):
        capture(1).result(PATIENCE_S)
    maker.commits.release()
    assert first.result(PATIENCE_S) == [True] and store.log.committed() == {0}
    maker.fails = None
    maker.commits.release()
    assert capture(1).result(PATIENCE_S) == [True]
