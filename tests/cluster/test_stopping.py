"""A holder that is asked to leave through the store: who hears it, how often, and how long others wait for it."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from support.commit_processes import QUICK, hold, start, wait_for

from cluster.holder import Holder
from cluster.lease import Lease, LeaseHeld, StopRequest, last_attempt
from cluster.stopping import ask_to_stop, take_over, wait_until_over
from cluster.storage import Storage, open_storage

RUN = "run 'trial'"
MARK = "attempts/0001.stop.json"


@pytest.fixture
def local(tmp_path: Path) -> Storage:
    return open_storage(str(tmp_path / "run"))


def take(storage: Storage) -> Lease:
    return Lease.take(storage, RUN, timing=QUICK)


def ask(storage: Storage, *, now: bool = False) -> StopRequest:
    attempt = last_attempt(storage)
    assert attempt is not None
    return ask_to_stop(storage, attempt, now=now)


def beats(storage: Storage, number: int) -> None:
    """Until so many signs of life more were given."""

    def counter() -> int:
        return int(json.loads(storage.read("attempts/0001.beat.json"))["counter"])

    wait_for(lambda: storage.exists("attempts/0001.beat.json"))
    first = counter()
    wait_for(lambda: counter() >= first + number)


def test_a_holder_is_told_once_who_asks_and_once_more_that_it_be_at_once(storage: Storage) -> None:
    heard: list[StopRequest] = []
    with take(storage) as lease:
        beats(storage, 2)
        assert heard == []
        asked = ask(storage)
        assert (asked.pid, asked.now) == (os.getpid(), False)
        beats(storage, 2)
        assert heard == [], "nobody listened yet"
        lease.when_asked_to_stop(heard.append)
        beats(storage, 3)
        assert heard == [asked]
        assert ask(storage) == asked, "who asked first stands"
        at_once = ask(storage, now=True)
        beats(storage, 3)
        assert heard == [asked, at_once] and at_once.now
        lease.fence.check()
    assert storage.exists("attempts/0001.end.json")


def test_the_next_holder_is_not_asked_and_a_mark_is_no_lease(storage: Storage) -> None:
    with take(storage):
        ask(storage)
    heard: list[StopRequest] = []
    with take(storage) as lease:
        assert lease.epoch == 2
        lease.when_asked_to_stop(heard.append)
        wait_for(lambda: storage.exists("attempts/0002.beat.json"))
    assert heard == []


@pytest.mark.parametrize("mark", [b"", b"{}", b"[1]", b'{"of": "another version"}'])
def test_what_is_no_request_asks_for_nothing_and_is_replaced(local: Storage, mark: bytes) -> None:
    heard: list[StopRequest] = []
    with take(local) as lease:
        lease.when_asked_to_stop(heard.append)
        local.write(MARK, mark)
        beats(local, 3)
        assert heard == []
        lease.check()
        asked = ask(local)
        beats(local, 3)
        assert heard == [asked]


# Waiting ----------------------------------------------------------------------------------------------------


@contextmanager
def elsewhere(storage: Storage, *, beating: bool, until: Callable[[], bool] = lambda: False) -> Iterator[None]:
    """A holder of another machine that ends its lease when `until` says so."""
    holder = replace(Holder.this_process(), host="elsewhere", machine="another", pid=4711)
    storage.create("attempts/0001.json", holder.to_bytes())
    over, counter = threading.Event(), 0

    def beat() -> None:
        storage.write("attempts/0001.beat.json", json.dumps({"counter": counter, "time": time.time()}).encode())

    def go_on() -> None:
        nonlocal counter
        while not over.wait(QUICK.beat_s):
            counter += 1
            beat()
            if until():
                storage.write("attempts/0001.end.json", json.dumps({"time": time.time()}).encode())
                return

    beat()
    thread = threading.Thread(target=go_on if beating else lambda: None)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def wait(storage: Storage, patience_s: float, said: list[str] | None = None) -> str:
    attempt = last_attempt(storage)
    assert attempt is not None
    return wait_until_over(storage, attempt, patience_s, (said if said is not None else []).append, QUICK)


def test_a_holder_that_leaves_is_waited_for(storage: Storage) -> None:
    with elsewhere(storage, beating=True, until=lambda: storage.exists(MARK)):
        assert wait(storage, 0.5) == "alive"
        ask(storage)
        assert wait(storage, 60) == "ended"


def test_one_that_is_silent_is_not_waited_for_for_ever(storage: Storage) -> None:
    with elsewhere(storage, beating=False):
        ask(storage)
        assert wait(storage, 60) == "silent"


def test_one_of_this_machine_that_is_gone_is_known_to_be(local: Storage, tmp_path: Path) -> None:
    process = start(hold, local.uri, tmp_path / "words")
    try:
        wait_for(lambda: local.exists("attempts/0001.beat.json"))
        process.kill()
        process.join()
        assert wait(local, 60) == "gone"
    finally:
        process.kill()
        process.join()


def test_one_that_another_took_over_is_over(local: Storage) -> None:
    with elsewhere(local, beating=True):
        attempt = last_attempt(local)
        local.create("attempts/0002.json", Holder.this_process().to_bytes())
        assert attempt is not None and wait_until_over(local, attempt, 60, print, QUICK) == "taken over"


def test_a_store_out_of_reach_ends_no_waiting_and_is_told(local: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    from cluster import stopping

    monkeypatch.setattr(stopping, "_SAY_S", 0.0)
    said: list[str] = []
    with elsewhere(local, beating=True, until=lambda: local.exists(MARK)):
        attempt, read_many = last_attempt(local), local.read_many
        assert attempt is not None

        def gone_for_a_while(keys: list[str]) -> list[bytes | None]:
            if len(said) < 3:
                raise OSError("no route to host")
            return read_many(keys)

        monkeypatch.setattr(local, "read_many", gone_for_a_while)
        ask_to_stop(local, attempt)
        assert wait_until_over(local, attempt, 60, said.append, QUICK) == "ended"
    assert all("no route to host" in text for text in said[:3])


# Taking over ------------------------------------------------------------------------------------------------


def take_it(storage: Storage, patience_s: float = 60, said: list[str] | None = None) -> Lease:
    say = (said if said is not None else []).append
    return take_over(storage, RUN, say, lambda: patience_s, QUICK)


def test_who_takes_over_asks_and_goes_on_when_the_other_has_left(storage: Storage) -> None:
    said: list[str] = []
    with (
        elsewhere(storage, beating=True, until=lambda: storage.exists(MARK)),
        take_it(storage, said=said) as lease,
    ):
        assert lease.epoch == 2
        lease.fence.check()
    assert "host elsewhere, pid 4711" in " ".join(said)
    assert StopRequest.from_bytes(storage.read(MARK)).pid == os.getpid()


def test_where_nobody_holds_it_nobody_is_asked(storage: Storage) -> None:
    with take_it(storage) as lease:
        assert lease.epoch == 1
    with take_it(storage) as lease:
        assert lease.epoch == 2
    assert not storage.exists(MARK)


def test_one_that_does_not_leave_keeps_it(local: Storage) -> None:
    with elsewhere(local, beating=True):
        with pytest.raises(LeaseHeld, match=r"was asked to leave and has not.*`kill 4711` on elsewhere"):
            take_it(local, patience_s=0.5)
        assert not local.exists("attempts/0002.json")


def test_who_was_quicker_by_a_moment_is_not_asked(local: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both found it free."""
    create = local.create

    def late(key: str, data: bytes) -> bool:
        create("attempts/0001.json", replace(Holder.this_process(), host="quicker").to_bytes())
        return create(key, data)

    monkeypatch.setattr(local, "create", late)
    with pytest.raises(LeaseHeld, match="host quicker"):
        take_it(local)
    assert not local.exists(MARK)


def test_the_refusal_names_what_to_type(local: Storage) -> None:
    with take(local), pytest.raises(LeaseHeld) as caught:
        take(local)
    assert f"stillhouse stop {local.uri}" in str(caught.value) and "--take-over" in str(caught.value)
