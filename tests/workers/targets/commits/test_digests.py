"""Digests of a log spare requests, and never say anything that the log's own entries do not."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.servers.s3_servers import reached_at

from cluster.storage import Storage, join, open_storage
from workers.layout import LogLayout, StoreLayout
from workers.targets.commits import digests
from workers.targets.commits.damage import DamagedStore
from workers.targets.commits.garbage import MERGED, delete_garbage, find_garbage
from workers.targets.commits.log import Entry, Part, TargetLog

ROOT = StoreLayout("train").root
LAYOUT = LogLayout(ROOT)
ROWS = 10


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Digests of ten entries, which are looked up three at a time."""
    monkeypatch.setattr(digests, "ROWS", ROWS)
    monkeypatch.setattr(digests, "_AT_ONCE", 3)


@pytest.fixture(params=["local", "s3"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Storage]:
    if request.param == "local":
        yield open_storage(str(tmp_path))
        return
    with reached_at(request.getfixturevalue("moto_endpoint")) as bucket:
        yield open_storage(join(bucket, uuid.uuid4().hex))


def entry(unit: int, revision: int = 0, content_hash: str = "as it was") -> Entry:
    words: dict[str, Any] = {"teacher": "teacher", "teacher_fingerprint": "f", "content_hash": content_hash}
    numbers = dict.fromkeys(("rows", "tokens", "targets", "num_kept", "epoch", "started", "finished"), unit)
    part = Part("targets", f"{StoreLayout('train').parts}/{unit:08d}-{revision}.targets.parquet", 100 + unit, "0")
    return Entry(unit, **words, **numbers, parts=(part,), revision=revision)


def commit(storage: Storage, *entries: Entry) -> list[Entry]:
    for made in entries:
        assert TargetLog(storage, ROOT).commit(made)
    return list(entries)


class Counting:
    """A log, and the keys of entries that were asked for one by one."""

    def __init__(self, storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[str] = []
        read = storage.read_many

        def read_many(keys: list[str]) -> list[bytes | None]:
            self.asked += keys
            return read(keys)

        monkeypatch.setattr(storage, "read_many", read_many)
        self.log = TargetLog(storage, ROOT)


def names(storage: Storage) -> list[str]:
    return storage.keys(LAYOUT.digests)


def test_what_is_in_a_digest_is_not_asked_for(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    made = commit(storage, *(entry(u) for u in (*range(23), 40)))
    assert TargetLog(storage, ROOT).digest(least=1) == 24
    assert [LogLayout.digest_of(key)[:3] for key in names(storage)] == [(0, 9, 10), (10, 19, 10), (20, 40, 4)]
    made[23:23] = commit(storage, entry(30), entry(31))
    counting = Counting(storage, monkeypatch)
    assert counting.log.entries() == made
    assert counting.asked == [LAYOUT.entry(30, 0), LAYOUT.entry(31, 0)]
    assert [e.unit for e in counting.log.every_revision()] == [e.unit for e in made]


def test_few_new_entries_are_worth_no_digest(storage: Storage) -> None:
    commit(storage, *(entry(u) for u in range(4)))
    assert TargetLog(storage, ROOT).digest(least=5) == 0 and names(storage) == []
    commit(storage, entry(4))
    assert len(list(TargetLog(storage, ROOT).each(digest=True))) == 5 and names(storage) == []  # fewer than LEAST
    assert TargetLog(storage, ROOT).digest(least=5) == 5 and len(names(storage)) == 1
    assert TargetLog(storage, ROOT).digest(least=1) == 0 and len(names(storage)) == 1


def test_a_start_leaves_a_digest_for_the_next(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    made = commit(storage, *(entry(u) for u in range(12)))
    monkeypatch.setattr("workers.targets.commits.digests.Digests.add.__defaults__", (5,))
    first, second = Counting(storage, monkeypatch), None
    assert list(first.log.each(digest=True)) == made
    assert len(first.asked) == 12  # once, for the digest
    second = Counting(storage, monkeypatch)
    assert list(second.log.each(digest=True)) == made and second.asked == []


def test_small_digests_are_merged(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    """However often a run is resumed: at most one is not full."""
    made: list[Entry] = []
    log = TargetLog(storage, ROOT)
    for first in range(0, 28, 4):
        made += commit(storage, *(entry(u) for u in range(first, first + 4)))
        assert (log if first % 8 else TargetLog(storage, ROOT)).digest(least=1) == 4
        rows = [LogLayout.digest_of(key)[2] for key in names(storage)]
        assert sum(rows) == len(made) and sum(n < ROWS for n in rows) <= 1
    counting = Counting(storage, monkeypatch)
    assert counting.log.entries() == made and counting.asked == []


def test_a_deleted_entry_is_not_committed(storage: Storage) -> None:
    """The remedy for an entry that cannot be read: delete it, then capture."""
    commit(storage, *(entry(u) for u in range(6)))
    assert TargetLog(storage, ROOT).digest(least=1) == 6
    storage.delete(LAYOUT.entry(2, 0))
    log = TargetLog(storage, ROOT)
    assert [e.unit for e in log.each()] == [0, 1, 3, 4, 5] == sorted(log.committed())
    assert log.entry(2) is None


def test_an_entry_made_anew_is_not_served_from_a_digest(storage: Storage) -> None:
    """Also one of the same length, and where a digest of its own time has been made since."""
    commit(storage, *(entry(u) for u in range(6)))
    log = TargetLog(storage, ROOT)
    assert log.digest(least=1) == 6
    time.sleep(0.02)  # a local file system counts in ticks of some milliseconds
    storage.delete(LAYOUT.entry(2, 0))
    commit(storage, entry(2, content_hash="is now so"))
    expected = ["as it was"] * 2 + ["is now so"] + ["as it was"] * 3
    assert [e.content_hash for e in log.each()] == expected
    assert log.digest(least=1) == 1
    assert [e.content_hash for e in TargetLog(storage, ROOT).each()] == expected


def test_repairs_count_as_without_digests(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    made = commit(storage, *(entry(u) for u in range(5)))
    repaired = commit(storage, entry(1, 1), entry(3, 1), entry(3, 2))
    lonely = commit(storage, entry(9, 1))  # its first entry was deleted: the unit is not committed
    for digested in (False, True):
        counting = Counting(storage, monkeypatch)
        assert counting.log.entries() == [made[0], repaired[0], made[2], repaired[2], made[4]]
        assert counting.log.repairs() == [*repaired, *lonely]
        assert len(list(counting.log.every_revision())) == 9
        assert counting.log.revision(3) == 2
        assert bool(counting.asked) is not digested
        TargetLog(storage, ROOT).digest(least=1)


@pytest.mark.parametrize("how", ["damaged", "gone while it is read"])
def test_a_digest_that_cannot_be_read_costs_requests(
    how: str, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = commit(storage, *(entry(u) for u in range(12)))
    TargetLog(storage, ROOT).digest(least=1)
    first = names(storage)[0]
    if how == "damaged":
        storage.write(first, storage.read(first)[:-1] + b"!")
    else:
        listed = names(storage)
        keys = storage.keys
        monkeypatch.setattr(storage, "keys", lambda prefix: listed if prefix == LAYOUT.digests else keys(prefix))
        storage.delete(first)
    counting = Counting(storage, monkeypatch)
    assert counting.log.entries() == made and len(counting.asked) == 10
    if how == "damaged":
        assert TargetLog(storage, ROOT).digest(least=1) == 10  # and is made anew
        counting.asked.clear()
        assert TargetLog(storage, ROOT).entries() == made and counting.asked == []


def test_a_digest_hides_no_entry_that_cannot_be_read(storage: Storage) -> None:
    commit(storage, *(entry(u) for u in range(4)))
    storage.write(LAYOUT.entry(2, 0), b"{half")
    assert TargetLog(storage, ROOT).digest(least=1) == 4
    with pytest.raises(DamagedStore, match="00000002"):
        TargetLog(storage, ROOT).entries()


def test_an_entry_deleted_while_it_is_read_is_in_no_digest(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    commit(storage, *(entry(u) for u in range(3)))
    log, read = TargetLog(storage, ROOT), storage.read_many

    def delete_first(keys: list[str]) -> list[bytes | None]:
        storage.delete(LAYOUT.entry(1, 0))
        return read(keys)

    monkeypatch.setattr(storage, "read_many", delete_first)
    log.digest(least=1)
    assert [LogLayout.digest_of(key)[:3] for key in names(storage)] == [(0, 2, 2)]
    assert [e.unit for e in TargetLog(storage, ROOT).each()] == [0, 2]


def test_garbage_are_digests_that_others_hold_too(storage: Storage) -> None:
    """As a driver leaves them that was killed before it deleted what it had merged."""
    made = commit(storage, *(entry(u) for u in range(4)))
    TargetLog(storage, ROOT).digest(least=1)
    (small,) = names(storage)
    held = storage.read(small)
    made += commit(storage, *(entry(u) for u in range(4, 8)))
    TargetLog(storage, ROOT).digest(least=1)
    for made_part in (part for e in made for part in e.parts):
        storage.write(made_part.key, b"x")
    storage.write(small, held)
    found = find_garbage(storage, time.time() + 60)
    assert [(g.key, g.reason) for g in found] == [(small, MERGED)]
    assert [g.key for g in delete_garbage(storage, found)] == [small]
    assert len(names(storage)) == 1
    assert find_garbage(storage, time.time() + 60) == []


def test_a_log_of_nothing(storage: Storage) -> None:
    log = TargetLog(storage, ROOT)
    assert log.digest(least=1) == 0
    assert log.entries() == log.repairs() == list(log.every_revision()) == []
