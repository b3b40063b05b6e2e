"""What `stillhouse gc` may delete: never what a newest entry names."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from support.commit_processes import FACTS
from support.servers.s3_servers import reached_at

from cluster.storage import Storage, join, open_storage
from workers.targets.commits.garbage import LOST, REPAIRED, TEMPORARY, delete_garbage, find_garbage
from workers.targets.commits.log import Entry
from workers.targets.encoding.arrays import UnitTargets
from workers.targets.encoding.schema import StoreHeader
from workers.targets.store import TargetStore


@pytest.fixture
def bucket(moto_endpoint: str) -> Iterator[str]:
    with reached_at(moto_endpoint) as uri:
        yield uri


@pytest.fixture(params=["local", "s3"])
def store(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    make_header: Callable[..., StoreHeader],
    make_targets: Callable[..., UnitTargets],
    commit: Callable[[TargetStore, int, UnitTargets], bool],
) -> TargetStore:
    """Three committed units."""
    uri = str(tmp_path) if request.param == "local" else join(request.getfixturevalue("bucket"), uuid.uuid4().hex)
    store = TargetStore(open_storage(uri), "train")
    store.create(make_header())
    for unit in range(3):
        assert commit(store, unit, targets(store, unit, make_targets))
    return store


def targets(store: TargetStore, unit: int, make_targets: Callable[..., UnitTargets]) -> UnitTargets:
    return make_targets(store.header, np.random.default_rng(unit), [f"u{unit}.{i}" for i in range(3)])


def garbage(storage: Storage, older_than_s: float = -3600) -> dict[str, str]:
    """Reasons by key; by default, of files of any age."""
    return {g.key: g.reason for g in find_garbage(storage, time.time() - older_than_s)}


def everything(storage: Storage) -> set[str]:
    return {f.key for f in storage.listing("")}


def test_a_lost_races_part_is_found_and_deleted(store: TargetStore, make_targets: Callable[..., UnitTargets]) -> None:
    before = everything(store.storage)
    unit = targets(store, 7, make_targets)
    [lost] = store.write_part(1, unit)
    assert not store.log.commit(Entry.of(1, (lost,), unit, **FACTS))
    [killed] = store.write_part(9, unit)  # its entry was never made
    assert garbage(store.storage) == {lost.key: LOST, killed.key: LOST}
    found = find_garbage(store.storage, time.time() + 3600)
    assert [g.bytes for g in found] == [lost.bytes, killed.bytes] and {g.split for g in found} == {"train"}
    assert everything(store.storage) == before | {lost.key, killed.key}  # looking deletes nothing
    assert delete_garbage(store.storage, found) == found
    assert everything(store.storage) == before
    assert len([store.read_unit(e) for e in store.log.entries()]) == 3


def test_what_is_young_is_left_alone(store: TargetStore, make_targets: Callable[..., UnitTargets]) -> None:
    store.write_part(1, targets(store, 7, make_targets))
    assert garbage(store.storage, older_than_s=600) == {}


def test_what_a_writer_commits_meanwhile_is_not_deleted(
    store: TargetStore, make_targets: Callable[..., UnitTargets]
) -> None:
    """The log is read again before anything goes."""
    unit = targets(store, 7, make_targets)
    [part] = store.write_part(3, unit)
    found = find_garbage(store.storage, time.time() + 3600)
    assert [g.key for g in found] == [part.key]
    store.log.commit(Entry.of(3, (part,), unit, **FACTS))
    assert delete_garbage(store.storage, found) == []
    assert [store.read_unit(e).rows for e in store.log.entries()] == [3, 3, 3, 3]


def test_repaired_parts_go_and_repairs_stay(store: TargetStore, make_targets: Callable[..., UnitTargets]) -> None:
    [damaged] = store.log.entries()[1].parts
    revisions = []
    for revision in (1, 2):
        unit = targets(store, 1, make_targets)
        revisions.append(store.write_part(1, unit)[0])
        store.log.commit(Entry.of(1, tuple(revisions[-1:]), unit, **FACTS, revision=revision, supersedes=damaged.key))
    assert garbage(store.storage) == {damaged.key: REPAIRED, revisions[0].key: REPAIRED}
    delete_garbage(store.storage, find_garbage(store.storage, time.time() + 3600))
    assert garbage(store.storage) == {}
    reader = TargetStore(store.storage, "train")
    assert [reader.read_unit(e).rows for e in reader.log.entries()] == [3, 3, 3]


def test_files_that_killed_writers_left_half_written_go(store: TargetStore) -> None:
    half = ["targets/train/parts/g0000/.tmp-abc", "targets/heldout/.tmp-def"]
    for key in half:
        store.storage.write(key, b"half")
    store.storage.write("students/medical/.tmp-ghi", b"not of the target stores")
    assert garbage(store.storage) == dict.fromkeys(half, TEMPORARY)
    delete_garbage(store.storage, find_garbage(store.storage, time.time() + 3600))
    assert garbage(store.storage) == {} and store.storage.exists("students/medical/.tmp-ghi")


def test_what_belongs_to_another_generation_is_left_alone(store: TargetStore) -> None:
    store.storage.write("targets/train/parts/g0001/00000000-ab.parquet", b"named by a log of its own")
    assert garbage(store.storage) == {}


def test_nothing_is_deleted_while_the_log_cannot_be_read(store: TargetStore) -> None:
    key = "targets/train/log/g0000/00000001.json"
    store.storage.write(key, store.storage.read(key)[:20])
    with pytest.raises(ValueError, match="cannot be read"):
        find_garbage(store.storage, time.time() + 3600)
