"""The log as the only truth, and parts that are what the log promises or are refused by name."""

from __future__ import annotations

import json
import pickle
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

import workers.targets.store
from cluster.storage import LocalStorage
from workers.targets.commits.damage import DamagedShard, DamagedStore
from workers.targets.commits.log import Entry, Part, TargetLog
from workers.targets.encoding.arrays import UnitTargets
from workers.targets.encoding.schema import StoreHeader
from workers.targets.reader import rows_of
from workers.targets.store import TargetStore

MakeTargets = Callable[..., UnitTargets]
MakeHeader = Callable[..., StoreHeader]
CommitUnit = Callable[[TargetStore, int, UnitTargets], bool]


def entry(unit: int, writer: int = 0) -> Entry:
    return Entry(
        unit=unit,
        parts=(Part("targets", f"targets/train/parts/g0000/{unit}-{writer}.parquet", 123, "ab" * 32),),
        rows=3,
        tokens=40,
        targets=30,
        num_kept=200,
        content_hash="cd" * 32,
        teacher="teacher",
        teacher_fingerprint="ef" * 32,
        epoch=writer,
        started=1.25,
        finished=2.5,
        generated=17,
        rejected=({"id": "p9", "sample": 1, "reason": "contains the withheld 'broccoli'"},),
    )


# Log --------------------------------------------------------------------------------------------------------


def test_an_entry_comes_back_as_it_was(local: LocalStorage) -> None:
    log = TargetLog(local, "targets/train")
    assert log.entry(4) is None
    assert log.commit(entry(4)) is True
    assert log.entry(4) == entry(4)
    assert Entry.from_bytes(entry(4).to_bytes()) == entry(4)


def test_a_unit_is_committed_once(local: LocalStorage) -> None:
    log = TargetLog(local, "targets/train")
    assert log.commit(entry(4, writer=1)) is True
    assert log.commit(entry(4, writer=1)) is True  # its own first try
    assert log.commit(entry(4, writer=2)) is False
    assert log.entry(4) == entry(4, writer=1)


def test_one_of_many_racing_writers_commits_a_unit(local: LocalStorage) -> None:
    gate, won = threading.Barrier(16), [False] * 16

    def write(i: int) -> None:
        log = TargetLog(LocalStorage(local.root), "targets/train")
        gate.wait()
        won[i] = log.commit(entry(0, writer=i))

    threads = [threading.Thread(target=write, args=(i,)) for i in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert won.count(True) == 1
    assert TargetLog(local, "targets/train").entry(0) == entry(0, writer=won.index(True))


def test_entries_are_in_plan_order_whatever_the_order_of_commits(local: LocalStorage) -> None:
    log = TargetLog(local, "targets/train")
    for unit in (11, 2, 100, 0, 9):
        log.commit(entry(unit))
    assert log.committed() == {0, 2, 9, 11, 100}
    assert [e.unit for e in log.entries()] == [0, 2, 9, 11, 100]


def test_stores_have_logs_of_their_own(local: LocalStorage) -> None:
    TargetLog(local, "targets/train").commit(entry(0))
    assert TargetLog(local, "targets/heldout").committed() == set()


# Repairs ----------------------------------------------------------------------------------------------------


def test_the_newest_revision_of_a_unit_counts(local: LocalStorage) -> None:
    log = TargetLog(local, "targets/train")
    for unit in (0, 1, 2):
        log.commit(entry(unit))
    repaired = [replace(entry(1, writer=r), revision=r, supersedes="a", supersedes_content_hash="b") for r in (1, 2)]
    assert all(log.commit(e) for e in repaired)
    assert log.committed() == {0, 1, 2}
    assert log.entries() == [entry(0), repaired[1], entry(2)]
    assert log.entry(1) == repaired[1] and log.entry(1, 0) == entry(1) and log.entry(1, 3) is None
    assert log.repairs() == repaired and len(list(log.every_revision())) == 5


def test_a_revision_is_committed_once(local: LocalStorage) -> None:
    log = TargetLog(local, "targets/train")
    first, second = (replace(entry(1, writer=w), revision=1) for w in (1, 2))
    assert log.commit(first) and not log.commit(second)
    assert log.entry(1, 1) == first


def test_a_log_that_is_open_finds_repairs_when_it_looks(local: LocalStorage) -> None:
    log = TargetLog(local, "targets/train")
    log.commit(entry(1))
    assert log.entry(1) == entry(1)
    TargetLog(local, "targets/train").commit(replace(entry(1), revision=1))
    assert log.revision(1) == 0
    log.look_for_repairs()
    assert log.revision(1) == 1 and log.entry(1) == replace(entry(1), revision=1)


def test_entries_from_before_there_were_repairs_are_read(local: LocalStorage) -> None:
    fields = json.loads(entry(4).to_bytes())
    for name in ("revision", "supersedes", "supersedes_content_hash"):
        del fields[name]
    assert Entry.from_bytes(json.dumps(fields).encode()) == entry(4)


def test_a_repair_says_whether_its_contents_are_others() -> None:
    same, other = (replace(entry(1), revision=1, supersedes_content_hash=h) for h in ("cd" * 32, "ab" * 32))
    assert not entry(1).content_changed and not same.content_changed and other.content_changed


def test_marks_stand_until_a_newer_revision(local: LocalStorage) -> None:
    log = TargetLog(local, "targets/train")
    for unit in (7, 3):
        log.commit(entry(unit))
        log.mark_damaged(unit, 0, "part", "its part is missing", "medical")
    log.mark_damaged(3, 0, "part", "said by another", "legal")
    assert [(d.unit, d.by, d.reason) for d in log.damaged()] == [
        (3, "medical", "its part is missing"),
        (7, "medical", "its part is missing"),
    ]
    log.commit(replace(entry(3), revision=1))
    assert [d.unit for d in log.damaged()] == [7]
    log.marks.withdraw(7, 0)
    assert log.damaged() == []
    log.mark_damaged(3, 1, "part", "again", "medical")
    assert [(d.unit, d.revision) for d in log.damaged()] == [(3, 1)]


def test_an_entry_that_cannot_be_read_is_named(local: LocalStorage) -> None:
    log = TargetLog(local, "targets/train")
    log.commit(entry(4))
    key = "targets/train/log/g0000/00000004.json"
    local.write(key, local.read(key)[:-9])
    with pytest.raises(DamagedStore, match=f"{key}.*delete it"):
        log.entries()


# Header -----------------------------------------------------------------------------------------------------


def test_a_store_takes_the_header_that_it_was_made_with(local: LocalStorage, make_header: MakeHeader) -> None:
    with pytest.raises(FileNotFoundError):
        _ = TargetStore(local, "train").header
    TargetStore(local, "train").create(make_header())
    TargetStore(local, "train").create(make_header())
    assert TargetStore(local, "train").header == make_header()


@pytest.mark.parametrize(
    "name, other", [("draws", {"draws": 22}), ("vocabulary", {"vocabulary": 98}), ("scheme", {"scheme": "full"})]
)
def test_another_header_is_refused_by_the_name_of_its_field(
    name: str, other: dict[str, object], local: LocalStorage, make_header: MakeHeader
) -> None:
    TargetStore(local, "train").create(make_header())
    with pytest.raises(ValueError, match="other settings") as caught:
        TargetStore(local, "train").create(make_header(**other))
    assert name in str(caught.value)
    assert TargetStore(local, "train").header == make_header()


def test_a_difference_within_a_field_is_named_by_its_key(make_header: MakeHeader) -> None:
    one, other = (make_header(answers={"duplicates": "auto", "min_tokens": n}) for n in (3, 4))
    assert one.differences(other) == ["answers.min_tokens"]
    assert one.differences(make_header()) == ["answers.duplicates", "answers.min_tokens"]
    assert one.differences(one) == []


def test_a_header_from_before_a_field_was_has_its_default(make_header: MakeHeader) -> None:
    header = json.loads(make_header().to_json())
    del header["answers"]
    assert StoreHeader.from_json(json.dumps(header)) == make_header()


def test_a_header_with_a_field_that_nobody_knows_is_refused(make_header: MakeHeader) -> None:
    header = json.loads(make_header().to_json()) | {"rotation": 3}
    with pytest.raises(ValueError, match="rotation, which this program does not know"):
        StoreHeader.from_json(json.dumps(header))


def test_a_header_of_another_format_version_is_refused(make_header: MakeHeader) -> None:
    header = json.loads(make_header().to_json())
    header["version"] += 1
    with pytest.raises(ValueError, match=rf"format version {header['version']}"):
        StoreHeader.from_json(json.dumps(header))


# Parts ------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["systematic", "full"])
def captured(
    request: pytest.FixtureRequest,
    local: LocalStorage,
    make_header: MakeHeader,
    make_targets: MakeTargets,
    commit: CommitUnit,
) -> tuple[TargetStore, UnitTargets]:
    """A store with one committed unit."""
    store = TargetStore(local, "train")
    store.create(make_header(scheme=request.param))
    targets = make_targets(store.header, np.random.default_rng(0), [f"p{i}" for i in range(5)])
    assert commit(store, 0, targets)
    return store, targets


def part_path(store: TargetStore, local: LocalStorage) -> Path:
    committed = store.log.entry(0)
    assert committed is not None
    return local.root / committed.parts[0].key


def test_a_committed_unit_is_read_back(captured: tuple[TargetStore, UnitTargets], local: LocalStorage) -> None:
    store, targets = captured
    reader = TargetStore(LocalStorage(local.root), "train")
    committed = reader.log.entry(0)
    assert committed is not None
    assert reader.read_unit(committed).content_hash() == targets.content_hash() == committed.content_hash
    assert committed.parts[0].bytes == part_path(store, local).stat().st_size


def test_a_part_is_invisible_before_its_entry(
    local: LocalStorage, make_header: MakeHeader, make_targets: MakeTargets
) -> None:
    store = TargetStore(local, "train")
    store.create(make_header())
    store.write_part(3, make_targets(make_header(), np.random.default_rng(0), ["a"]))
    assert store.log.committed() == set() and store.log.entry(3) is None


def test_two_writers_of_a_unit_do_not_share_a_part(
    local: LocalStorage, make_header: MakeHeader, make_targets: MakeTargets
) -> None:
    store = TargetStore(local, "train")
    store.create(make_header())
    unit = make_targets(make_header(), np.random.default_rng(0), ["a"])
    assert store.write_part(0, unit)[0].key != store.write_part(0, unit)[0].key


def test_a_unit_of_nothing_has_no_part(local: LocalStorage, make_header: MakeHeader, commit: CommitUnit) -> None:
    store = TargetStore(local, "train")
    store.create(make_header())
    commit(store, 0, UnitTargets())
    committed = store.log.entry(0)
    assert committed is not None and committed.parts == ()
    assert store.read_unit(committed).rows == 0


@pytest.mark.parametrize("damage", ["truncated", "a flipped bit", "longer", "empty", "missing"])
def test_a_damaged_part_is_refused_by_name(
    damage: str, captured: tuple[TargetStore, UnitTargets], local: LocalStorage
) -> None:
    store, _ = captured
    path = part_path(store, local)
    data = bytearray(path.read_bytes())
    if damage == "missing":
        path.unlink()
    elif damage == "a flipped bit":
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    else:
        path.write_bytes({"truncated": data[:-10], "longer": data + b"x", "empty": b""}[damage])
    committed = store.log.entry(0)
    assert committed is not None
    with pytest.raises(DamagedShard, match="unit 0") as caught:
        store.read_unit(committed)
    assert committed.parts[0].key in str(caught.value)
    crossed = pickle.loads(pickle.dumps(caught.value))  # as it does from a worker's process
    assert (crossed.unit, crossed.part, str(crossed)) == (0, committed.parts[0].key, str(caught.value))


def test_a_reader_that_cannot_wait_marks_damage_and_says_what_to_do(
    captured: tuple[TargetStore, UnitTargets], local: LocalStorage
) -> None:
    store, targets = captured
    committed = store.log.entry(0)
    assert committed is not None
    whole = store.read_or_mark(committed, "evaluate", "stillhouse evaluate CONFIG")
    assert whole.content_hash() == targets.content_hash()
    part_path(store, local).unlink()
    with pytest.raises(DamagedShard, match=r"`stillhouse capture CONFIG`.* then `stillhouse evaluate CONFIG`"):
        store.read_or_mark(committed, "evaluate", "stillhouse evaluate CONFIG")
    assert [(d.unit, d.by) for d in store.log.damaged()] == [(0, "evaluate")]


STORES: dict[str, dict[str, Any]] = {
    "systematic": {},
    "multinomial with always-kept ids": {"scheme": "multinomial", "always": (0, 90)},
    "threshold": {"scheme": "threshold", "draws": 5, "always": (3,)},
    "topk": {"scheme": "topk", "top_k": 9, "always": (7, 8)},
    "large vocabulary": {"vocabulary": 262_144},
}


@pytest.mark.parametrize("kind", STORES)
def test_the_page_on_the_format_reads_a_part_with_nothing_but_pyarrow(
    kind: str, local: LocalStorage, make_header: MakeHeader, make_targets: MakeTargets, commit: CommitUnit
) -> None:
    """The program in FORMAT.md, as it stands there, and our own reader tell the same."""
    store = TargetStore(local, "train")
    store.create(make_header(**STORES[kind]))
    targets = make_targets(store.header, np.random.default_rng(0), [f"p{i}" for i in range(5)])
    commit(store, 0, targets)
    part = part_path(store, local)
    assert json.loads(pq.ParquetFile(part).metadata.metadata[b"stillhouse"]) == json.loads(store.header.to_json())
    page = (Path(workers.targets.store.__file__).parent / "FORMAT.md").read_text()
    program: dict[str, Any] = {}
    exec(page.split("```python\n")[1].split("```")[0], program)
    read = list(program["read"](part, local.root / store.root / "vocab_order.parquet"))
    assert [r["prompt_uid"] for r in read] == targets.prompt_uids and [r["text"] for r in read] == targets.texts
    for found, row in zip(read, rows_of(targets, store.header), strict=True):
        assert found["start"] == row.start and found["tokens"] == row.tokens.tolist()
        for name in ("entropy", "token_logprob", "tail"):
            np.testing.assert_allclose(found[name], getattr(row, name), rtol=1e-5)
        ends = np.cumsum(row.num_kept)[:-1]
        kept = zip(found["targets"], np.split(row.ids, ends), np.split(row.weights, ends), strict=True)
        for weights, ids, own in kept:
            assert sorted(weights) == sorted(ids.tolist())
            np.testing.assert_allclose([weights[i] for i in ids.tolist()], own, rtol=1e-4, atol=1e-6)


def test_a_full_part_is_plain_parquet(
    local: LocalStorage, make_header: MakeHeader, make_targets: MakeTargets, commit: CommitUnit
) -> None:
    store = TargetStore(local, "heldout")
    store.create(make_header(scheme="full"))
    targets = make_targets(store.header, np.random.default_rng(0), ["a", "b"])
    commit(store, 0, targets)
    rows = pq.read_table(part_path(store, local)).to_pylist()
    assert [x for r in rows for x in r["logprobs"]] == targets.logprobs.tolist()


# Draws ------------------------------------------------------------------------------------------------------


def test_each_draw_is_a_part_of_its_own(
    local: LocalStorage, make_header: MakeHeader, make_targets: MakeTargets, commit: CommitUnit
) -> None:
    store = TargetStore(local, "train")
    store.create(make_header(redraws=3, always=(4,)))
    targets = make_targets(store.header, np.random.default_rng(0), ["a", "b", "c"])
    targets.temperature = 1.5
    commit(store, 0, targets)
    committed = store.log.entry(0)
    assert committed is not None and [p.role for p in committed.parts] == ["targets", "draw1", "draw2"]
    assert store.read_unit(committed).content_hash() == targets.content_hash() == committed.content_hash
    for number in range(3):
        found = store.read_unit(committed, draw=number)
        assert found.content_hash() == targets.with_draw(number).content_hash()
    (local.root / committed.parts[2].key).unlink()
    assert store.read_unit(committed, draw=1).rows == 3
    with pytest.raises(DamagedShard, match="draw2"):
        store.read_unit(committed, draw=2)
