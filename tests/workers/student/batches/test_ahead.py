"""Batches made ahead are those of a stream that is read step by step, and nobody waits for what nobody wants."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any

import pytest
from support.store_fixture import StoreFixture, content

from workers.student.batches.ahead import BatchesAhead
from workers.targets.commits.damage import DamagedShard
from workers.targets.reader import Cursor, TargetRow

BATCH = 17
MIX = {"a": 0.6, "b": 0.4}


def ahead(
    filled: StoreFixture,
    budget: int,
    tokens: int = 0,
    cursor: Cursor | None = None,
    on_wait: Callable[[int, float], None] = lambda unit, seconds: None,
    share: Any = lambda rows, tokens: None,
    **more: Any,
) -> BatchesAhead:
    batches = BatchesAhead(BATCH, budget, tokens, on_wait)
    batches.open(filled.stream(MIX, cursor=cursor, on_wait=batches.waiting, **more), share)
    return batches


def threads() -> set[threading.Thread]:
    return {t for t in threading.enumerate() if t.name.startswith(("batch-ahead", "read-ahead"))}


def eventually(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_batches_and_cursors_are_those_of_the_stream(filled: StoreFixture) -> None:
    """Each cursor is that of its own batch, though the next one is made by then; who resumes there goes on so."""
    plain, shares = filled.stream(MIX), []
    expected = []
    for _ in range(20):
        rows = [content(r) for r in plain.next_batch(BATCH)]
        expected.append((rows, plain.cursor.to_dict()))

    def share(rows: list[TargetRow], tokens: int) -> Any:
        shares.append((tokens, threading.current_thread().name))
        return [len(rows)]

    batches, behind = ahead(filled, 10_000, share=share), 0
    for n, (rows, cursor) in enumerate(expected):
        batch = batches.next()
        assert [content(r) for r in batch.rows] == rows and batch.cursor.to_dict() == cursor
        assert batch.tokens == behind and batch.share == [len(rows)]
        behind += sum(r.targets for r in batch.rows)
        eventually(lambda n=n: len(shares) == n + 2)  # one more is made, and not two
        if n == 7:
            resumed = ahead(filled, 10_000, behind, batch.cursor)
            assert [content(r) for r in resumed.next().rows] == expected[8][0]
            resumed.close()
    assert [tokens for tokens, _ in shares[:2]] == [0, sum(r.targets for r in filled.stream(MIX).next_batch(BATCH))]
    assert all(name.startswith("batch-ahead") for _, name in shares)
    batches.close()


def test_nothing_is_made_beyond_the_budget(build: Callable[..., StoreFixture]) -> None:
    """The units after it may never be captured."""
    filled = build([("a",), ("a",)], [4, 4])
    filled.commit(0)
    targets, made = int(filled.contents[0].target_lengths.sum()), []
    batches = BatchesAhead(targets, targets, 0, lambda unit, seconds: None)
    batches.open(
        filled.stream({"a": 1.0}, on_wait=batches.waiting),
        lambda rows, tokens: made.append(tokens),  # type: ignore[func-returns-value,arg-type]
    )
    before = threads()
    assert len(batches.next().rows) == 4
    batches.close()
    assert made == [0] and not threads() - before


def test_waiting_is_told_while_the_device_waits_too(build: Callable[..., StoreFixture]) -> None:
    filled = build([("a",), ("b",), ("a",), ("b",)], [6, 6, 6, 6])
    filled.commit(0)
    filled.commit(1)
    waits: list[tuple[int, float]] = []

    def on_wait(unit: int, seconds: float) -> None:
        waits.append((unit, seconds))
        assert threading.current_thread() is asking
        filled.commit_unit(filled.store, unit, filled.contents[unit])

    def noting(unit: int, seconds: float) -> None:
        batches.waiting(unit, seconds)
        noted.set()

    asking, noted = threading.current_thread(), threading.Event()
    batches = BatchesAhead(BATCH, 10_000, 0, on_wait)
    batches.open(filled.stream(MIX, on_wait=noting), lambda rows, tokens: None)
    while not noted.is_set():
        batches.next()
        noted.wait(0.3)
        assert not waits  # the thread waits for a unit, the device does not
    began = time.monotonic()
    batches.next()
    assert waits and waits[0][0] in (2, 3)
    assert all(seconds <= time.monotonic() - began for _, seconds in waits)
    batches.close()


def test_an_error_is_raised_where_its_batch_is_asked_for(filled: StoreFixture) -> None:
    first = filled.stream(MIX).next_batch(BATCH)
    read = {int(r.prompt_uid.split(".")[0][1:]) for r in first}
    broken = next(u for u in filled.plan.of_domain("a") if u not in read)
    filled.part(broken).write_bytes(b"damaged")
    batches = ahead(filled, 10_000)
    assert [content(r) for r in batches.next().rows] == [content(r) for r in first]
    with pytest.raises(DamagedShard, match=f"unit {broken}"):
        for _ in range(20):
            batches.next()
    batches.close()


def test_closing_ends_a_wait_that_has_no_end(build: Callable[..., StoreFixture]) -> None:
    filled = build([("a",), ("b",)], [6, 6])
    before = threads()
    batches = ahead(filled, 10_000)
    waiting = batches._pool.submit(batches._make, 0)
    eventually(lambda: batches._waits is not None)
    batches.close()
    assert waiting.done() and not threads() - before


def test_what_shares_batches_is_let_go(filled: StoreFixture) -> None:
    """It holds an engine, and the next one is made in the memory of this one."""

    class Engine:
        def share(self, rows: list[TargetRow], tokens: int) -> None:
            return None

    engine = Engine()
    gone, batches = weakref.ref(engine), ahead(filled, 10_000, share=engine.share)
    batches.next()
    batches.forget_share()
    batches.close()
    del engine
    gc.collect()
    assert gone() is None
