"""Units for a stream: read ahead, waited for, and waited for again where they are damaged."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.store_fixture import ROWS, StoreFixture, content, rows

from cluster.storage import LocalStorage, Stored
from workers.targets import unit_reader
from workers.targets.commits.damage import DamagedShard, DamagedStore
from workers.targets.reader import Cursor, TargetStream
from workers.targets.store import TargetStore

# Reading ahead ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ahead", [1, 4, 50])
@pytest.mark.parametrize("mix", [{"a": 1.0}, {"a": 0.6, "b": 0.3, "c": 0.1}])
def test_reading_ahead_changes_nothing(ahead: int, mix: dict[str, float], filled: StoreFixture) -> None:
    plain, eager = filled.stream(mix, ahead=0), filled.stream(mix, ahead=ahead)
    for _ in range(30):
        assert [content(r) for r in plain.next_batch(17)] == [content(r) for r in eager.next_batch(17)]
        assert plain.cursor == eager.cursor
    eager.close()


def background() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name.startswith("read-ahead")]


def test_a_closed_stream_leaves_no_thread(filled: StoreFixture) -> None:
    before = set(background())
    stream = filled.stream({"a": 1.0})
    stream.next_batch(1)
    assert set(background()) - before
    stream.close()
    assert not set(background()) - before


def test_units_too_large_for_the_memory_are_not_read_ahead(
    filled: StoreFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    mix = {"a": 0.5, "b": 0.5}
    expected = [content(r) for r in rows(filled.stream(mix), 60)]
    monkeypatch.setattr(unit_reader, "_CACHE_BYTES", 1)
    before = set(background())
    stream = filled.stream(mix)
    assert [content(r) for r in rows(stream, 60)] == expected
    assert not set(background()) - before


def test_an_error_of_the_background_is_raised_where_its_unit_is_needed(filled: StoreFixture) -> None:
    """The second unit of the domain cannot be read: all rows of the first are served before."""
    first, second = filled.plan.of_domain("a")[:2]
    key = str(filled.part(second).relative_to(filled.store.storage.root))  # type: ignore[attr-defined]
    storage = Watched(filled.store.storage.root, failing=key)  # type: ignore[attr-defined]
    stream = TargetStream(TargetStore(storage, "train"), filled.plan, {"a": 1.0}, 0)
    assert [r.prompt_uid for r in rows(stream, ROWS[first])] == filled.contents[first].prompt_uids
    with pytest.raises(OSError, match="no answer"):
        stream.next_batch(1)
    stream.close()


class Watched(LocalStorage):
    """Counts what is asked of it: (method, key, whether something was there)."""

    def __init__(self, root: Path, failing: str = "") -> None:
        super().__init__(root)
        self.failing, self.requests = failing, list[tuple[str, str, bool]]()

    def read(self, key: str) -> bytes:
        if key == self.failing:
            raise OSError("no answer")
        try:
            data = super().read(key)
        except FileNotFoundError:
            self.requests.append(("read", key, False))
            raise
        self.requests.append(("read", key, True))
        return data

    def keys(self, prefix: str) -> list[str]:
        self.requests.append(("list", prefix, True))
        return super().keys(prefix)

    def files(self, prefix: str) -> Iterator[Stored]:
        self.requests.append(("list", prefix, True))
        return super().files(prefix)

    def count(self, method: str, part: str, *, found: bool = True) -> Counter[str]:
        return Counter(k for m, k, f in self.requests if m == method and part in k and f == found)


def test_following_costs_two_reads_a_unit_and_no_listing(build: Callable[..., StoreFixture]) -> None:
    """The teacher commits a unit whenever the reader has waited for it twice."""
    filled = build([("a",)] * 8, [3] * 8)
    storage, waits = Watched(filled.store.storage.root), Counter[int]()  # type: ignore[attr-defined]

    def on_wait(unit: int, seconds: float) -> None:
        waits[unit] += 1
        if waits[unit] == 2:
            filled.commit(unit)

    stream = TargetStream(TargetStore(storage, "train"), filled.plan, {"a": 1.0}, 0, on_wait=on_wait)
    rows(stream, 24)
    stream.close()
    assert set(waits.values()) == {2}
    entries, parts = storage.count("read", "/log/"), storage.count("read", "/parts/")
    assert len(entries) == len(parts) == 8 and set(entries.values()) == set(parts.values()) == {1}
    assert storage.count("list", "").total() == 1  # which units were repaired
    polls, asked_ahead = 2 * 8, 8 + 4
    assert storage.count("read", "/log/", found=False).total() <= polls + asked_ahead


def test_later_epochs_of_a_small_store_read_nothing(filled: StoreFixture) -> None:
    storage = Watched(filled.store.storage.root)  # type: ignore[attr-defined]
    stream = TargetStream(TargetStore(storage, "train"), filled.plan, {"a": 1.0}, 0)
    names = filled.names_of("a")
    rows(stream, len(names))
    stream.close()
    before = len(storage.requests)
    rows(stream, 3 * len(names))
    assert len(storage.requests) == before


# Damage -----------------------------------------------------------------------------------------------------


def damage(path: Path, how: str) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    if how == "deleted":
        path.unlink()
    else:
        path.write_bytes(data if how == "a flipped bit" else data[:-10])


@pytest.mark.parametrize("how", ["truncated", "a flipped bit", "deleted"])
@pytest.mark.parametrize("unit", [0, 2, 6])
def test_a_damaged_unit_is_marked_and_waited_for(how: str, unit: int, filled: StoreFixture) -> None:
    mix = {"a": 0.7, "b": 0.3}
    expected = [content(r) for r in rows(filled.stream(mix), 80)]
    damage(filled.part(unit), how)
    found, waits = list[DamagedShard](), Counter[int]()

    def on_wait(waited: int, seconds: float) -> None:
        waits[waited] += 1
        if waits[waited] == 2:
            [mark] = filled.store.log.damaged()
            assert (mark.unit, mark.revision, mark.by) == (unit, 0, "medical") and mark.part in mark.reason
            filled.repair(unit)

    stream = filled.stream(mix, on_wait=on_wait, on_damage=found.append, name="medical")
    assert [content(r) for r in rows(stream, 80)] == expected
    stream.close()
    assert [(d.unit, d.revision) for d in found] == [(unit, 0)] and waits == {unit: 2}
    assert filled.store.log.damaged() == []
    assert stream.cursor.repaired == {unit: 1}


def test_damage_is_an_error_where_nobody_repairs(filled: StoreFixture) -> None:
    damage(filled.part(0), "a flipped bit")
    stream = filled.stream({"a": 1.0})
    with pytest.raises(DamagedShard, match="unit 0: the bytes of targets/train/parts/"):
        stream.next_batch(1)
    assert [d.unit for d in filled.store.log.damaged()] == [0]
    with pytest.raises(DamagedShard):  # a second reporter's mark is no error
        filled.stream({"a": 1.0}).next_batch(1)
    assert len(filled.store.log.damaged()) == 1


def test_a_unit_that_was_repaired_meanwhile_is_not_waited_for(filled: StoreFixture) -> None:
    second = filled.plan.of_domain("a")[1]
    expected = [content(r) for r in rows(filled.stream({"a": 1.0}), 9)]
    stream = filled.stream({"a": 1.0}, ahead=0)
    got = rows(stream, 1)
    damage(filled.part(second), "deleted")
    filled.repair(second)
    got += rows(stream, 8)
    assert [content(r) for r in got] == expected
    assert filled.store.log.marks.all() == []


def test_a_false_alarm_is_read_again(filled: StoreFixture) -> None:
    path = filled.part(0)
    data = path.read_bytes()
    damage(path, "truncated")

    def on_damage(damage: DamagedShard) -> None:
        path.write_bytes(data)
        filled.store.log.marks.withdraw(0, 0)

    stream = filled.stream({"a": 1.0}, on_damage=on_damage)
    assert stream.next_batch(1)[0].prompt_uid == "u0.0" and stream.cursor.repaired == {}


def test_a_reader_for_which_all_is_damaged_does_not_try_for_ever(filled: StoreFixture) -> None:
    """Whoever repairs finds nothing wrong, every time."""
    damage(filled.part(0), "truncated")
    alarms = list[int]()

    def on_damage(damage: DamagedShard) -> None:
        alarms.append(damage.unit)
        filled.store.log.marks.withdraw(0, 0)

    with pytest.raises(DamagedStore, match="memory, the disk and the network of this machine"):
        filled.stream({"a": 1.0}, on_damage=on_damage).next_batch(1)
    assert len(alarms) == 3


def test_storage_that_damages_every_repair_ends_the_reading(filled: StoreFixture) -> None:
    damage(filled.part(0), "truncated")
    made = list[int]()

    def on_damage(found: DamagedShard) -> None:
        made.append(found.revision + 1)
        filled.repair(0, found.revision + 1)
        damage(filled.part(0), "a flipped bit")

    with pytest.raises(DamagedStore, match="recomputed 3 times") as caught:
        filled.stream({"a": 1.0}, on_damage=on_damage).next_batch(1)
    assert made == [1, 2, 3] and filled.store.storage.uri in str(caught.value)


def test_a_missing_table_of_ranks_is_nothing_that_a_repair_would_fix(filled: StoreFixture) -> None:
    for key in filled.store.vocab_order_files.keys:
        filled.store.storage.delete(key)
    with pytest.raises(DamagedStore, match="no shard of the store can be read"):
        filled.stream({"a": 1.0}, on_damage=lambda damage: None).next_batch(1)
    assert filled.store.log.damaged() == []


def test_a_cursor_knows_who_read_what_before_a_repair(build: Callable[..., StoreFixture]) -> None:
    filled = build([("a",), ("b",), ("a",)], [2, 2, 2]).commit_all()
    filled.repair(1, 1)
    stream = filled.stream({"a": 0.5, "b": 0.5})
    units_of = {d: filled.plan.of_domain(d) for d in "ab"}

    def has_read(unit: int, below: int | None = None) -> bool:
        return Cursor.from_dict(json.loads(json.dumps(stream.cursor.to_dict()))).has_read(unit, units_of, below)

    assert not any(has_read(unit) for unit in range(3))
    while not has_read(1):
        rows(stream, 1)
    assert has_read(0, below=1) and not has_read(1, below=1) and has_read(1, below=2) and not has_read(2)
    rows(stream, 40)  # later epochs
    assert has_read(2, below=1) and not has_read(1, below=1)
    assert Cursor.from_dict({k: v for k, v in stream.cursor.to_dict().items() if k != "repaired"}).repaired == {}
