"""One driver at a time: who gets the lease, who is refused, and what becomes of one that was taken over."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from support.commit_processes import QUICK, hold, start, take, take_when_silent, wait_for

from cluster.holder import Holder, local_time
from cluster.lease import Fence, Lease, LeaseHeld, LeaseLost, attempts, newest_epoch
from cluster.storage import Storage

RUN = "run 'trial'"


def quick(storage: Storage, say: Callable[[str], None] = lambda text: None) -> Lease:
    return Lease.take(storage, RUN, say, QUICK)


# One after another ------------------------------------------------------------------------------------------


def test_leases_are_numbered_from_one_and_one_that_ended_is_followed_at_once(storage: Storage) -> None:
    said: list[str] = []
    epochs = []
    for _ in range(5):
        with quick(storage, said.append) as lease:
            epochs.append(lease.epoch)
            lease.check()
            lease.fence.check()
    assert epochs == [1, 2, 3, 4, 5] == list(range(1, newest_epoch(storage) + 1))
    assert said == [], "nothing had to be waited for"


def test_a_lease_ends_with_its_block_also_by_an_error_or_an_interrupt(storage: Storage) -> None:
    for error in (RuntimeError, KeyboardInterrupt):
        with pytest.raises(error), quick(storage):
            raise error
    with quick(storage) as lease:
        assert lease.epoch == 3


def test_a_lease_says_who_holds_it(storage: Storage) -> None:
    with quick(storage) as lease:
        kept = json.loads(storage.read("attempts/0001.json"))
        assert {"host", "pid", "since"} <= kept.keys() and kept["pid"] == os.getpid()
        assert Holder.from_bytes(storage.read("attempts/0001.json")) == lease.holder
        assert lease.holder.is_here and lease.holder.runs


def test_beats_go_on_while_it_is_held_and_end_with_it(storage: Storage) -> None:
    def counter() -> int:
        return int(json.loads(storage.read("attempts/0001.beat.json"))["counter"])

    with quick(storage):
        wait_for(lambda: storage.exists("attempts/0001.beat.json") and counter() > 2)
    last = counter()
    time.sleep(5 * QUICK.beat_s)
    assert counter() == last and storage.exists("attempts/0001.end.json")


# Two at once ------------------------------------------------------------------------------------------------


@contextmanager
def holding(storage: Storage, tmp_path: Path) -> Iterator[Holder]:
    """Another process that holds lease 1; it is killed after the block, if it lives."""
    process = start(hold, storage.uri, tmp_path / "words")
    try:
        wait_for(lambda: storage.exists("attempts/0001.beat.json") or process.exitcode)
        yield Holder.from_bytes(storage.read("attempts/0001.json"))
    finally:
        process.kill()
        process.join()


def test_a_second_driver_is_refused_with_who_and_since_when(storage: Storage, tmp_path: Path) -> None:
    with holding(storage, tmp_path) as holder:
        with pytest.raises(LeaseHeld) as caught:
            quick(storage)
        said = str(caught.value)
        assert f"{RUN} is driven by attempt 1 already: host {holder.host}, pid {holder.pid}" in said
        assert f"since {local_time(holder.since)}" in said and "last sign of life" in said
        assert f"`kill {holder.pid}` on {holder.host}" in said
        assert newest_epoch(storage) == 1


def test_a_killed_driver_of_this_machine_is_followed_at_once(storage: Storage, tmp_path: Path) -> None:
    said: list[str] = []
    with holding(storage, tmp_path) as holder:
        os.kill(holder.pid, signal.SIGKILL)
        wait_for(lambda: not holder.runs)
        with quick(storage, said.append) as lease:
            assert lease.epoch == 2 and said == []


def test_another_process_with_the_same_number_is_not_the_holder(storage: Storage) -> None:
    """Process numbers come round: a holder that was killed long ago is not who has its number now."""
    here = Holder.this_process()
    storage.create("attempts/0001.json", replace(here, process_started=here.process_started - 5000).to_bytes())
    with quick(storage) as lease:
        assert lease.epoch == 2


def test_a_stopped_driver_is_taken_over_when_it_is_stale_and_finds_out(storage: Storage, tmp_path: Path) -> None:
    """Its beats tell it, and its fence, when it goes on; it leaves no mark of its end, and the taker holds on."""
    with holding(storage, tmp_path) as holder:
        os.kill(holder.pid, signal.SIGSTOP)
        lease, refusal = take_when_silent(storage.uri)
        assert f"pid {holder.pid}" in refusal
        with lease:
            assert lease.epoch == 2
            os.kill(holder.pid, signal.SIGCONT)
            wait_for(lambda: (tmp_path / "words").exists())
            by_beat, by_fence = json.loads((tmp_path / "words").read_text())
            assert by_beat == by_fence
            assert by_beat.startswith(f"attempt 1 was taken over by attempt 2 ({lease.holder})")
            assert str(lease.holder.pid) in by_beat and local_time(lease.holder.since) in by_beat
            wait_for(lambda: not holder.runs)
            assert not storage.exists("attempts/0001.end.json")
            lease.fence.check()


def test_a_driver_that_resumes_in_time_is_not_taken_over(storage: Storage, tmp_path: Path) -> None:
    """Stale by its last beat, but it comes back while it is watched."""
    said: list[str] = []
    with holding(storage, tmp_path) as holder:
        os.kill(holder.pid, signal.SIGSTOP)
        time.sleep(QUICK.stale_s + 0.5)

        def wake(text: str) -> None:
            said.append(text)
            os.kill(holder.pid, signal.SIGCONT)

        with pytest.raises(LeaseHeld, match="sign of life just now"):
            quick(storage, wake)
        assert f"pid {holder.pid}" in said[0] and newest_epoch(storage) == 1


def test_one_of_many_takers_gets_it(storage: Storage, tmp_path: Path) -> None:
    """Processes that all find the last holder dead at the same moment."""
    with holding(storage, tmp_path) as holder:
        os.kill(holder.pid, signal.SIGKILL)
        wait_for(lambda: not holder.runs)
    for n in range(6):
        (tmp_path / str(n)).mkdir()
    takers = [start(take, storage.uri, tmp_path / str(n), str(tmp_path / "all-have-tried")) for n in range(6)]
    wait_for(lambda: len(list(tmp_path.glob("*/found"))) == 6)
    (tmp_path / "all-have-tried").touch()
    for taker in takers:
        taker.join()
    found = [json.loads(p.read_text()) for p in tmp_path.glob("*/found")]
    won = [f for f in found if f["epoch"]]
    assert len(won) == 1 and won[0]["epoch"] == 2 == newest_epoch(storage)
    refused = [f["refused"] for f in found if not f["epoch"]]
    assert all(f"attempt 2 already: host {holder.host}, pid {won[0]['pid']}" in r for r in refused)


# From another machine ---------------------------------------------------------------------------------------


def elsewhere(storage: Storage, clock: float) -> Callable[[int], None]:
    """A holder of another machine, whose clock is wrong by so many seconds; returns how it gives a sign of life."""
    now = time.time() + clock
    holder = replace(Holder.this_process(), host="elsewhere", machine="another", pid=1, since=now)
    storage.create("attempts/0001.json", holder.to_bytes())

    def beat(counter: int) -> None:
        data = {"counter": counter, "time": time.time() + clock}
        storage.write("attempts/0001.beat.json", json.dumps(data).encode())

    return beat


# Nothing of the storage's is compared with the holder's clock, so that one kind meets them all.
CLOCKS = pytest.mark.parametrize(
    "storage, clock", [("local", 0), ("local", -3600), ("local", 3600), ("s3", 3600)], indirect=["storage"]
)


@CLOCKS
def test_a_driver_elsewhere_lives_while_its_beats_count_whatever_its_clock_says(clock: float, storage: Storage) -> None:
    beat, over = elsewhere(storage, clock), threading.Event()

    def go_on() -> None:
        counter = 0
        while not over.wait(QUICK.beat_s):
            beat(counter := counter + 1)

    thread = threading.Thread(target=go_on)
    thread.start()
    try:
        with pytest.raises(LeaseHeld, match="attempt 1 already: host elsewhere, pid 1, since"):
            quick(storage)
    finally:
        over.set()
        thread.join()


@CLOCKS
def test_a_driver_elsewhere_that_is_silent_is_followed_whatever_its_clock_says(clock: float, storage: Storage) -> None:
    elsewhere(storage, clock)(7)
    said: list[str] = []
    with quick(storage, said.append) as lease:
        assert lease.epoch == 2
    assert len(said) == 1 and "host elsewhere" in said[0] and "watching" in said[0]


def test_a_driver_elsewhere_that_ends_while_it_is_watched_is_followed(storage: Storage) -> None:
    elsewhere(storage, 0)(7)
    with quick(storage, lambda text: storage.write("attempts/0001.end.json", b"{}")) as lease:
        assert lease.epoch == 2


# The fence --------------------------------------------------------------------------------------------------


def test_a_fence_holds_until_a_later_lease_exists(storage: Storage) -> None:
    for epoch in (1, 2):
        storage.create(f"attempts/{epoch:04d}.json", Holder.this_process().to_bytes())
    Fence(storage, 2).check()
    storage.create("attempts/0003.json", replace(Holder.this_process(), host="third").to_bytes())
    for epoch in (1, 2):
        with pytest.raises(LeaseLost, match=f"attempt {epoch} was taken over by attempt 3 .host third, pid"):
            Fence(storage, epoch).check()


# Seen from outside ------------------------------------------------------------------------------------------


def test_whoever_reaches_the_store_sees_all_attempts_and_how_the_last_one_stands(storage: Storage) -> None:
    assert attempts(storage) == []
    with quick(storage):
        pass
    with quick(storage) as lease:
        wait_for(lambda: storage.exists("attempts/0002.beat.json"))
        first, second = attempts(storage)
        assert (first.number, first.sign(time.time()), second.number, second.sign(time.time())) == (
            1,
            "ended",
            2,
            "alive",
        )
        assert second.holder == lease.holder and second.ended is None and first.ended is not None
        assert attempts(storage, last=1)[0].number == 2
        assert second.sign(time.time() + 3600) == "silent", "by this machine's clock"
        gone = replace(second, holder=replace(lease.holder, process_started=1e9))
        assert gone.sign(time.time()) == "gone"
    storage.write("attempts/0003.json", b'{"of": "another version"}')
    assert [attempt.number for attempt in attempts(storage)] == [1, 2]
