"""Writers that are killed at any step, that are late, or whose S3 is ill: no unit is lost, and none is doubled."""

from __future__ import annotations

import signal
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from support.commit_processes import capture, drive, send, standing_at, take_when_silent
from support.servers.faulty_s3 import faulty
from support.servers.s3_servers import reached_at

from cluster.storage import join, open_storage
from workers.targets.commits.log import Entry
from workers.targets.encoding.arrays import UnitTargets
from workers.targets.encoding.schema import StoreHeader
from workers.targets.store import TargetStore

UNITS = 3
STEPS = ["part-written", "before-entry", "after-entry"]
LOCAL_STEPS = [
    *("write-staged", "write-synced", "write-replaced"),
    *("create-staged", "create-synced", "create-linked"),
]


@pytest.fixture(scope="module")
def contents(make_header: Callable[..., StoreHeader], make_targets: Callable[..., UnitTargets]) -> list[UnitTargets]:
    header = make_header()
    return [make_targets(header, np.random.default_rng(u), [f"u{u}.{r}" for r in range(4)]) for u in range(UNITS)]


@pytest.fixture(params=["local", "s3"])
def uri(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "local":
        yield str(tmp_path / "run")
        return
    with reached_at(request.getfixturevalue("moto_endpoint")) as bucket:
        yield join(bucket, uuid.uuid4().hex)


@pytest.fixture
def open_store(make_header: Callable[..., StoreHeader]) -> Callable[[str], TargetStore]:
    """A store with its header and its vocabulary order, so that writing a unit is one write and one create."""

    def opened(uri: str) -> TargetStore:
        store = TargetStore(open_storage(uri), "train")
        store.create(make_header())
        store.vocab_order_files.create(np.arange(store.header.vocabulary, dtype=float))
        return store

    return opened


def assert_whole(store: TargetStore, contents: list[UnitTargets]) -> list[Entry]:
    """Every unit has one entry and the content of an undisturbed run, by the log and by the bytes."""
    log = [f.key for f in store.storage.listing(f"{store.root}/log") if not is_hidden(f.key)]
    assert len(log) == len(contents)
    entries = store.log.entries()
    assert [e.unit for e in entries] == list(range(len(contents)))
    wanted = [c.content_hash() for c in contents]
    assert [e.content_hash for e in entries] == wanted
    assert [store.read_unit(e).content_hash() for e in entries] == wanted
    return entries


def is_hidden(key: str) -> bool:
    return key.rsplit("/", 1)[-1].startswith(".")


# Killed -----------------------------------------------------------------------------------------------------


def kill_and_go_on(
    point: str, uri: str, store: TargetStore, contents: list[UnitTargets], tmp_path: Path
) -> tuple[set[int], list[int]]:
    """Kill a writer where it stands in the second unit; then this process captures the rest. Units before and after."""
    with standing_at(f"{point}:2", tmp_path / "marks", capture, uri, contents, 1) as writer:
        send(writer, signal.SIGKILL)
        writer.join()
        assert writer.exitcode == -signal.SIGKILL
    before = store.log.committed()
    return before, capture(uri, contents, 2)


@pytest.mark.parametrize("point", STEPS)
def test_a_writer_killed_at_any_step_loses_and_doubles_nothing(
    point: str, uri: str, open_store: Callable[[str], TargetStore], contents: list[UnitTargets], tmp_path: Path
) -> None:
    store = open_store(uri)
    before, after = kill_and_go_on(point, uri, store, contents, tmp_path)
    assert before == ({0, 1} if point == "after-entry" else {0})
    assert before.isdisjoint(after) and before | set(after) == set(range(UNITS))
    entries = assert_whole(store, contents)
    assert [e.epoch for e in entries] == [1 if e.unit in before else 2 for e in entries]


@pytest.mark.parametrize("point", LOCAL_STEPS)
def test_a_writer_killed_at_any_step_of_a_local_write_loses_and_doubles_nothing(
    point: str, open_store: Callable[[str], TargetStore], contents: list[UnitTargets], tmp_path: Path
) -> None:
    uri = str(tmp_path / "run")
    store = open_store(uri)
    before, after = kill_and_go_on(point, uri, store, contents, tmp_path)
    assert before == ({0, 1} if point == "create-linked" else {0})
    assert before.isdisjoint(after) and before | set(after) == set(range(UNITS))
    assert_whole(store, contents)


# Late -------------------------------------------------------------------------------------------------------


def test_a_late_commit_of_a_driver_that_was_taken_over_is_refused(
    uri: str,
    open_store: Callable[[str], TargetStore],
    contents: list[UnitTargets],
    tmp_path: Path,
) -> None:
    """It is stopped just before its second commit, and goes on when another driver has the run."""
    store, words = open_store(uri), tmp_path / "words"
    with standing_at("before-entry:2", tmp_path / "marks", drive, uri, contents, words, seconds=1) as late:
        send(late, signal.SIGSTOP)
        lease, refusal = take_when_silent(uri)
        with lease:
            assert f"attempt 1 already: host {lease.holder.host}, pid {late.pid}, since " in refusal
            assert lease.epoch == 2 and store.log.committed() == {0}
            send(late, signal.SIGCONT)
            late.join(60)
            assert late.exitcode == 0
            assert store.log.committed() == {0}
            assert capture(uri, contents, lease.epoch) == [1, 2]
            lease.fence.check()
    assert f"attempt 1 was taken over by attempt 2 ({lease.holder})" in words.read_text()
    assert [e.epoch for e in assert_whole(store, contents)] == [1, 2, 2]


# An ill S3 --------------------------------------------------------------------------------------------------


def test_units_go_through_an_ill_s3_once_each(
    moto_endpoint: str,
    open_store: Callable[[str], TargetStore],
    contents: list[UnitTargets],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A fifth of the requests is refused; a commit's answer and a read's are lost; one gets no answer at all."""
    monkeypatch.setattr("cluster.storage.s3.READ_TIMEOUT_S", 1.0)
    many = contents * 2
    with faulty(moto_endpoint, seed=5) as (endpoint, s3), reached_at(endpoint) as bucket:
        uri = join(bucket, uuid.uuid4().hex)
        store = open_store(uri)
        s3.busy = 0.2
        for method, fault in (("PUT", "lost"), ("GET", "broken"), ("PUT", "late"), ("PUT", "lost"), ("HEAD", "silent")):
            s3.once(method, fault)
        captured: list[list[int]] = []
        writers = [threading.Thread(target=lambda: captured.append(capture(uri, many, 1))) for _ in range(3)]
        for writer in writers:
            writer.start()
        for writer in writers:
            writer.join()
        assert sorted(unit for units in captured for unit in units) == list(range(len(many)))
        assert_whole(store, many)
        assert s3.faults["busy"] > 10 and s3.faults["silent"] == s3.faults["late"] == s3.faults["broken"] == 1
