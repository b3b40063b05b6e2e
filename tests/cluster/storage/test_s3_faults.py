"""S3 that is busy, silent, or breaks off: calls go through, commits are made once, and what fails says where."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.servers.faulty_s3 import FaultyS3, faulty
from support.servers.s3_servers import reached_at

from cluster.storage import Storage, join, open_storage

LARGE = 60 * 2**20
Ill = tuple[Storage, FaultyS3]


@pytest.fixture
def ill(moto_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ill]:
    """A store behind a proxy that does what it is told, and waits for an answer for one second."""
    monkeypatch.setattr("cluster.storage.s3.READ_TIMEOUT_S", 1.0)
    with faulty(moto_endpoint, seed=3) as (endpoint, faults), reached_at(endpoint) as bucket:
        yield open_storage(join(bucket, uuid.uuid4().hex)), faults


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every request is tried twice, every call once."""
    monkeypatch.setattr("cluster.storage.s3.ATTEMPTS", 2)
    monkeypatch.setattr("cluster.storage.s3.CALLS", 1)


def test_nothing_is_lost_or_doubled_where_a_fifth_of_the_calls_is_refused(ill: Ill) -> None:
    """Four writers, each with keys of its own and one that all want; one request gets no answer."""
    storage, faults = ill
    faults.busy = 0.2
    faults.once("PUT", "silent")
    won: list[int] = []

    def work(writer: int) -> None:
        for n in range(4):
            key, data = f"log/{writer}-{n}", bytes([writer, n]) * 1000
            assert storage.create(key, data) is True
            assert storage.create(key, b"other") is False
            assert storage.read(key) == data
            storage.write(f"state/{writer}", data)
            assert storage.read(f"state/{writer}") == data
        if storage.create("log/shared", bytes([writer])):
            won.append(writer)

    run_at_once(4, work)
    assert storage.keys("log") == sorted([f"log/{w}-{n}" for w in range(4) for n in range(4)] + ["log/shared"])
    assert len(won) == 1 and storage.read("log/shared") == bytes(won)
    assert [f.bytes for f in storage.listing("state")] == [2000] * 4
    assert storage.read_many([f"state/{w}" for w in range(4)] + ["state/none"])[-1] is None
    assert faults.faults["silent"] == 1 and faults.faults["busy"] > 10


def run_at_once(writers: int, work: Callable[[int], None]) -> None:
    errors: list[BaseException] = []

    def run(writer: int) -> None:
        try:
            work(writer)
        except BaseException as error:
            errors.append(error)
            raise

    threads = [threading.Thread(target=run, args=(w,)) for w in range(writers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors, errors


@pytest.mark.parametrize("fault", ["lost", "late"])
def test_a_create_whose_answer_is_lost_knows_its_own_work(fault: str, ill: Ill) -> None:
    """The second try of the request is refused, as the first one made the key."""
    storage, faults = ill
    faults.once("PUT", fault)
    assert storage.create("log/1", b"mine") is True
    assert storage.create("log/1", b"another's") is False
    assert storage.read("log/1") == b"mine" and faults.requests["PUT"] == 3


@pytest.mark.parametrize("fault", ["busy", "lost", "silent", "broken"])
def test_a_create_looks_again_where_looking_fails(fault: str, ill: Ill) -> None:
    storage, faults = ill
    storage.write("log/1", b"theirs" * 100)
    for method in ("PUT", "GET"):
        faults.once(method, "lost" if method == "PUT" else fault)
    assert storage.create("log/1", b"mine") is False
    assert storage.create("log/1", b"theirs" * 100) is True
    assert faults.faults.total() == 2


def test_a_create_that_cannot_look_says_that_it_does_not_know(ill: Ill, impatient: None) -> None:
    faulty_storage, faults = ill
    storage = open_storage(faulty_storage.uri)
    storage.write("log/1", b"theirs")
    for _ in range(8):  # the HTTP client has a try of its own
        faults.once("GET", "lost")
    with pytest.raises(OSError, match="not known") as caught:
        storage.create("log/1", b"mine")
    assert f"{storage.uri}/log/1" in str(caught.value)


def test_a_create_is_tried_again_where_s3_asks_for_it(ill: Ill) -> None:
    """A conflict (409) says nothing of who won: the key may be absent still."""
    storage, faults = ill
    faults.once("PUT", "conflict")
    assert storage.create("log/1", b"mine") is True
    assert storage.read("log/1") == b"mine"


def test_a_body_that_breaks_off_is_read_again(ill: Ill, tmp_path: Path) -> None:
    storage, faults = ill
    data = bytes(range(256)) * 40
    for name in ("a", "b", "c"):
        storage.write(f"model/{name}", data)
    faults.once("GET", "broken")
    assert storage.read("model/a") == data
    faults.once("GET", "broken")
    assert storage.read_many(["model/a", "model/b"]) == [data, data]
    storage.download_folder("model", tmp_path / "back")
    assert (tmp_path / "back" / "c").read_bytes() == data
    assert faults.faults["broken"] == 2


def test_a_large_object_is_written_though_its_parts_fail(ill: Ill) -> None:
    storage, faults = ill
    mine = bytes(range(256)) * (LARGE // 256)
    for fault in ("busy", "lost", "broken"):
        faults.once("PUT", fault)
    faults.once("POST", "busy")
    storage.write("big", mine)
    assert faults.requests["PUT"] > 4, "it goes up in parts"
    assert storage.read("big") == mine


def test_a_large_object_is_created_once_though_its_requests_fail(ill: Ill) -> None:
    storage, faults = ill
    mine = bytes(range(256)) * (LARGE // 256)
    for fault in ("busy", "lost"):
        faults.once("PUT", fault)
    assert storage.create("big", mine) is True
    assert faults.requests["PUT"] == 3 and faults.requests["POST"] == 0, "one request a try, which only one can win"
    assert storage.create("big", mine[:-1] + b"?") is False
    assert storage.create("big", mine) is True
    assert storage.read("big") == mine


def test_a_large_object_has_one_creator(seaweed_endpoint: str) -> None:
    """In one request: a server may look for the key, and put parts together later (seen of 2 in 30 races there)."""
    with reached_at(seaweed_endpoint) as bucket:
        storage = open_storage(join(bucket, uuid.uuid4().hex))
        contents = [bytes([w]) * LARGE for w in range(2)]
        won: list[int] = []

        def create(writer: int) -> None:
            if storage.create("big", contents[writer]):
                won.append(writer)

        run_at_once(2, create)
        assert len(won) == 1 and storage.read("big") == contents[won[0]]
        assert storage.create("big", contents[1 - won[0]]) is False
        assert [f.key for f in storage.listing("")] == ["big"]


CALLS: dict[str, Callable[[Storage], Any]] = {
    "read": lambda s: s.read("log/1"),
    "write": lambda s: s.write("log/1", b"x"),
    "create": lambda s: s.create("log/1", b"x"),
    "exists": lambda s: s.exists("log/1"),
    "keys": lambda s: s.keys("log"),
    "listing": lambda s: s.listing("log"),
    "read_many": lambda s: s.read_many(["log/1"]),
}


@pytest.mark.parametrize("call", CALLS)
def test_a_call_that_fails_for_good_names_key_and_cause(call: str, ill: Ill, impatient: None) -> None:
    storage, faults = open_storage(ill[0].uri), ill[1]
    faults.busy = 1.0
    with pytest.raises(OSError) as caught:
        CALLS[call](storage)
    assert not isinstance(caught.value, FileNotFoundError)
    said = str(caught.value)
    assert f"{storage.uri}/log" in said
    assert "reduce your request rate" in said or "Service Unavailable" in said  # a HEAD is answered without words
