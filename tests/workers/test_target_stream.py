"""The sequence that a specialist reads: a function of plan, contents, seed and mix, never of when things arrive."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from committing import entry_of

from cluster.storage import LocalStorage
from workers.targets import unit_reader
from workers.targets.arrays import UnitTargets
from workers.targets.damage import DamagedShard, DamagedStore
from workers.targets.reader import Cursor, TargetRow, TargetStream, rows_of
from workers.targets.schema import StoreHeader
from workers.targets.store import TargetStore
from workers.units import Unit, UnitPlan

MakeTargets = Callable[..., UnitTargets]
MakeHeader = Callable[..., StoreHeader]
CommitUnit = Callable[[TargetStore, int, UnitTargets], bool]

DOMAINS = [("a",), ("b",), ("a", "b"), ("a",), ("c",), ("b",), ("a",), ("c",), ("a", "b"), ("b",)]
ROWS = [5, 3, 4, 1, 6, 2, 3, 2, 2, 4]


@dataclass
class House:
    """A plan with the contents of its units, committed or not."""

    store: TargetStore
    plan: UnitPlan
    contents: list[UnitTargets]
    commit_unit: CommitUnit

    def commit(self, unit: int) -> None:
        assert self.commit_unit(self.store, unit, self.contents[unit])

    def commit_all(self) -> House:
        for unit in range(len(self.contents)):
            self.commit(unit)
        return self

    def stream(self, mix: dict[str, float], seed: int = 0, cursor: Cursor | None = None, **more: Any) -> TargetStream:
        return TargetStream(TargetStore(self.store.storage, "train"), self.plan, mix, seed, cursor, **more)

    def part(self, unit: int) -> Path:
        """The file of a unit's newest revision."""
        entry = TargetStore(self.store.storage, "train").log.entry(unit)
        assert entry is not None and isinstance(self.store.storage, LocalStorage)
        return self.store.storage.root / entry.parts[0].key

    def repair(self, unit: int, revision: int = 1, targets: UnitTargets | None = None) -> None:
        """Commit a revision of a unit, with its contents or with others."""
        targets = targets or self.contents[unit]
        assert self.store.log.commit(entry_of(self.store, unit, targets, revision=revision))

    def names_of(self, domain: str) -> list[str]:
        """Prompt ids of a domain in plan order."""
        return [name for u in self.plan.of_domain(domain) for name in self.contents[u].prompt_ids]


@pytest.fixture
def build(
    local: LocalStorage, make_header: MakeHeader, make_targets: MakeTargets, commit: CommitUnit
) -> Callable[..., House]:
    def make(domains: list[tuple[str, ...]] = DOMAINS, rows: list[int] = ROWS, **header: Any) -> House:
        store = TargetStore(local, "train")
        store.create(make_header(**header))
        rng = np.random.default_rng(0)
        contents = [
            make_targets(store.header, rng, [f"u{u}.{i}" for i in range(n)]) if n else UnitTargets()
            for u, n in enumerate(rows)
        ]
        units = tuple(Unit(u, d, "teacher", n, 100, True) for u, (d, n) in enumerate(zip(domains, rows, strict=True)))
        return House(store, UnitPlan("train", units), contents, commit)

    return make


@pytest.fixture
def house(build: Callable[..., House]) -> House:
    return build().commit_all()


def rows(stream: TargetStream, n: int) -> list[TargetRow]:
    """The next n rows (a batch of one target position is one row)."""
    return [stream.next_batch(1)[0] for _ in range(n)]


def content(row: TargetRow) -> tuple[object, ...]:
    arrays = (row.tokens, row.entries, row.ids, row.weights, row.entropy, row.realised)
    return (row.prompt_id, row.start, *(a.tobytes() for a in arrays))


# Rows -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["systematic", "full"])
def test_rows_hold_their_part_of_the_unit(scheme: str, build: Callable[..., House]) -> None:
    house = build(scheme=scheme)
    unit, V = house.contents[0], house.store.header.vocabulary
    found = rows_of(unit, house.store.header)
    assert [r.prompt_id for r in found] == unit.prompt_ids
    for r, row in enumerate(found):
        alone = unit.select(np.array([r]))
        assert row.start == alone.starts[0] and row.targets == alone.target_lengths[0]
        for name in ("tokens", "entropy", "realised", "ids"):
            np.testing.assert_array_equal(getattr(row, name), getattr(alone, name))
        np.testing.assert_allclose(row.weights, alone.counts / house.store.header.draws, rtol=1e-6)
        if scheme == "full":
            assert row.logprobs is not None and row.logprobs.shape == (row.targets, V)
            np.testing.assert_array_equal(row.logprobs.reshape(-1), alone.logprobs)
        else:
            assert row.logprobs is None and row.entries.sum() == len(row.ids)


# Determinism ------------------------------------------------------------------------------------------------


def test_a_live_stream_is_that_of_a_finished_store(build: Callable[..., House]) -> None:
    """Units arrive in another order than planned, while the reader waits for them."""
    house, mix = build(), {"a": 0.5, "b": 0.3, "c": 0.2}
    order = np.random.default_rng(5).permutation(len(house.contents)).tolist()
    assert order != sorted(order)

    def arrive() -> None:
        for unit in order:
            time.sleep(0.02)
            house.commit(unit)

    writer = threading.Thread(target=arrive)
    writer.start()
    live = [content(r) for r in rows(house.stream(mix), 90)]
    writer.join()
    assert live == [content(r) for r in rows(house.stream(mix), 90)]


def test_a_waiting_reader_says_for_which_unit(build: Callable[..., House]) -> None:
    house = build()
    waits: list[tuple[int, float]] = []

    def on_wait(unit: int, seconds: float) -> None:
        waits.append((unit, seconds))
        if len(waits) == 2:
            house.commit(0)

    stream = TargetStream(house.store, house.plan, {"a": 1.0}, 0, on_wait=on_wait)
    assert stream.next_batch(1)[0].prompt_id == "u0.0"
    assert [unit for unit, _ in waits] == [0, 0]
    assert waits[0][1] <= waits[1][1]


@pytest.mark.parametrize("mix", [{"a": 1.0}, {"a": 0.6, "b": 0.4}, {"c": 0.1, "b": 0.2, "a": 0.7}])
def test_a_reader_goes_on_where_another_stopped(mix: dict[str, float], house: House) -> None:
    """From a cursor that went through JSON, at every batch of several epochs."""
    whole, batches, cursors = house.stream(mix), [], []
    for _ in range(40):
        cursors.append(json.dumps(whole.cursor.to_dict()))
        batches.append([content(r) for r in whole.next_batch(17)])
    for n, text in enumerate(cursors):
        resumed = house.stream(mix, cursor=Cursor.from_dict(json.loads(text)))
        assert [[content(r) for r in resumed.next_batch(17)] for _ in range(3)][: 40 - n] == batches[n : n + 3]


def test_a_saved_cursor_does_not_move(house: House) -> None:
    stream = house.stream({"a": 0.5, "b": 0.5})
    stream.next_batch(20)
    saved = stream.cursor.to_dict()
    before = json.dumps(saved)
    stream.next_batch(20)
    assert json.dumps(saved) == before


def test_the_sequence_does_not_depend_on_the_size_of_batches(house: House) -> None:
    mix = {"a": 0.6, "b": 0.4}

    def first(n: int, targets: int) -> list[str]:
        stream, found = house.stream(mix), list[str]()
        while len(found) < n:
            found += [r.prompt_id for r in stream.next_batch(targets)]
        return found[:n]

    assert first(70, 1) == first(70, 13) == first(70, 200)


def test_a_batch_holds_just_enough_targets(house: House) -> None:
    stream = house.stream({"a": 0.6, "b": 0.4})
    for targets in (1, 10, 25, 60):
        batch = stream.next_batch(targets)
        assert sum(r.targets for r in batch) >= targets > sum(r.targets for r in batch[:-1])


# Mix --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mix", [{"a": 0.7, "b": 0.3}, {"a": 1.0, "b": 1.0}, {"a": 0.05, "b": 0.9, "c": 0.05}])
def test_shares_of_target_tokens_follow_the_mix(mix: dict[str, float], house: House) -> None:
    """At every point, tokens over weight differ between domains by at most one row's."""
    stream = house.stream(mix)
    largest = max(int(u.target_lengths.max()) for u in house.contents)
    for _ in range(300):
        stream.next_batch(1)
        paces = [p.served / mix[d] for d, p in stream.cursor.domains.items()]
        assert max(paces) - min(paces) <= largest / min(mix.values())
    total = sum(p.served for p in stream.cursor.domains.values())
    for domain, weight in mix.items():
        share = stream.cursor.domains[domain].served / total
        assert abs(share - weight / sum(mix.values())) < 0.03


def test_the_scale_of_the_mix_does_not_matter(house: House) -> None:
    small, large = house.stream({"a": 0.25, "b": 0.75}), house.stream({"a": 1.0, "b": 3.0})
    assert [r.prompt_id for r in rows(small, 60)] == [r.prompt_id for r in rows(large, 60)]


def test_a_prompt_of_two_domains_is_in_both(house: House) -> None:
    shared = set(house.contents[2].prompt_ids)
    for domain in ("a", "b"):
        names = house.names_of(domain)
        seen = [r.prompt_id for r in rows(house.stream({domain: 1.0}), len(names))]
        assert shared <= set(seen) and seen == names


def test_a_domain_of_weight_0_is_left_out(house: House) -> None:
    stream = house.stream({"a": 1.0, "b": 0.0})
    assert {r.prompt_id for r in rows(stream, 30)} <= set(house.names_of("a"))


def test_an_unknown_domain_is_refused_by_name(house: House) -> None:
    with pytest.raises(ValueError, match="'medicine'") as caught:
        house.stream({"a": 1.0, "medicine": 1.0})
    assert "'a', 'b', 'c'" in str(caught.value)


# Epochs -----------------------------------------------------------------------------------------------------


def epochs(stream: TargetStream, length: int) -> Iterator[list[str]]:
    while True:
        yield [r.prompt_id for r in rows(stream, length)]


@pytest.mark.parametrize("domain", ["a", "b", "c"])
def test_a_domain_wraps_and_each_epoch_holds_each_row_once(domain: str, house: House) -> None:
    names = house.names_of(domain)
    stream = house.stream({domain: 1.0})
    seen = [epoch for epoch, _ in zip(epochs(stream, len(names)), range(5), strict=False)]
    assert seen[0] == names  # plan order first, so that a reader can follow the teacher
    assert all(Counter(epoch) == Counter(names) for epoch in seen)
    assert len({tuple(epoch) for epoch in seen}) == 5


def test_later_epochs_shuffle_units_and_rows(build: Callable[..., House]) -> None:
    house = build([("a",)] * 12, [6] * 12).commit_all()
    stream = house.stream({"a": 1.0})
    rows(stream, 72)
    second, third = ([r.prompt_id for r in rows(stream, 72)] for _ in range(2))
    units, later = (list(dict.fromkeys(name.split(".")[0] for name in epoch)) for epoch in (second, third))
    assert units != [f"u{u}" for u in range(12)] and later != units
    within = {u: [name for name in second if name.split(".")[0] == u] for u in units}
    assert any(names != sorted(names) for names in within.values())


@pytest.mark.parametrize("ahead", [0, 3])
def test_each_epoch_trains_on_the_next_draw(ahead: int, build: Callable[..., House]) -> None:
    """With two draws: the first, the second, the first again; the texts stay what they are."""
    house = build(redraws=2, always=(5,)).commit_all()
    stream = house.stream({"c": 1}, ahead=ahead)
    units = house.plan.of_domain("c")
    own = {name: u for u in units for name in house.contents[u].prompt_ids}
    for epoch in range(4):
        for row in rows(stream, len(own)):
            unit = house.contents[own[row.prompt_id]].with_draw(epoch % 2)
            expected = rows_of(unit, house.store.header)[unit.prompt_ids.index(row.prompt_id)]
            assert row.tokens.tolist() == expected.tokens.tolist()
            for name in ("entries", "ids", "weights"):
                np.testing.assert_array_equal(np.sort(getattr(row, name)), np.sort(getattr(expected, name)))
    stream.close()


def test_another_seed_is_another_order_of_later_epochs(house: House) -> None:
    n = len(house.names_of("a"))
    one, two = (rows(house.stream({"a": 1.0}, seed), 2 * n) for seed in (1, 2))
    assert [r.prompt_id for r in one[:n]] == [r.prompt_id for r in two[:n]]
    assert [r.prompt_id for r in one[n:]] != [r.prompt_id for r in two[n:]]


# Units of nothing -------------------------------------------------------------------------------------------


def test_a_unit_of_nothing_is_passed_over(build: Callable[..., House]) -> None:
    house = build([("a",)] * 5, [0, 3, 0, 2, 0]).commit_all()
    names = house.names_of("a")
    assert len(names) == 5
    stream = house.stream({"a": 1.0})
    for epoch, _ in zip(epochs(stream, 5), range(4), strict=False):
        assert Counter(epoch) == Counter(names)


@pytest.mark.parametrize("mix", [{"a": 1.0}, {"a": 0.5, "b": 0.5}])
def test_a_domain_of_nothing_but_empty_units_is_an_error(mix: dict[str, float], build: Callable[..., House]) -> None:
    house = build([("a",), ("a",), ("b",)], [0, 0, 4]).commit_all()
    with pytest.raises(ValueError, match="'a' was set aside"):
        house.stream(mix).next_batch(1000)


# Reading ahead ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ahead", [1, 4, 50])
@pytest.mark.parametrize("mix", [{"a": 1.0}, {"a": 0.6, "b": 0.3, "c": 0.1}])
def test_reading_ahead_changes_nothing(ahead: int, mix: dict[str, float], house: House) -> None:
    plain, eager = house.stream(mix, ahead=0), house.stream(mix, ahead=ahead)
    for _ in range(30):
        assert [content(r) for r in plain.next_batch(17)] == [content(r) for r in eager.next_batch(17)]
        assert plain.cursor == eager.cursor
    eager.close()


def background() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name.startswith("read-ahead")]


def test_a_closed_stream_leaves_no_thread(house: House) -> None:
    before = set(background())
    stream = house.stream({"a": 1.0})
    stream.next_batch(1)
    assert set(background()) - before
    stream.close()
    assert not set(background()) - before


def test_units_too_large_for_the_memory_are_not_read_ahead(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    mix = {"a": 0.5, "b": 0.5}
    expected = [content(r) for r in rows(house.stream(mix), 60)]
    monkeypatch.setattr(unit_reader, "_CACHE_BYTES", 1)
    before = set(background())
    stream = house.stream(mix)
    assert [content(r) for r in rows(stream, 60)] == expected
    assert not set(background()) - before


def test_an_error_of_the_background_is_raised_where_its_unit_is_needed(house: House) -> None:
    """The second unit of the domain cannot be read: all rows of the first are served before."""
    first, second = house.plan.of_domain("a")[:2]
    key = str(house.part(second).relative_to(house.store.storage.root))  # type: ignore[attr-defined]
    storage = Watched(house.store.storage.root, failing=key)  # type: ignore[attr-defined]
    stream = TargetStream(TargetStore(storage, "train"), house.plan, {"a": 1.0}, 0)
    assert [r.prompt_id for r in rows(stream, ROWS[first])] == house.contents[first].prompt_ids
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
        self.requests.append(("keys", prefix, True))
        return super().keys(prefix)

    def count(self, method: str, part: str, *, found: bool = True) -> Counter[str]:
        return Counter(k for m, k, f in self.requests if m == method and part in k and f == found)


def test_following_costs_two_reads_a_unit_and_no_listing(build: Callable[..., House]) -> None:
    """The teacher commits a unit whenever the reader has waited for it twice."""
    house = build([("a",)] * 8, [3] * 8)
    storage, waits = Watched(house.store.storage.root), Counter[int]()  # type: ignore[attr-defined]

    def on_wait(unit: int, seconds: float) -> None:
        waits[unit] += 1
        if waits[unit] == 2:
            house.commit(unit)

    stream = TargetStream(TargetStore(storage, "train"), house.plan, {"a": 1.0}, 0, on_wait=on_wait)
    rows(stream, 24)
    stream.close()
    assert set(waits.values()) == {2}
    entries, parts = storage.count("read", "/log/"), storage.count("read", "/parts/")
    assert len(entries) == len(parts) == 8 and set(entries.values()) == set(parts.values()) == {1}
    assert storage.count("keys", "").total() == 1  # which units were repaired
    polls, asked_ahead = 2 * 8, 8 + 4
    assert storage.count("read", "/log/", found=False).total() <= polls + asked_ahead


def test_later_epochs_of_a_small_store_read_nothing(house: House) -> None:
    storage = Watched(house.store.storage.root)  # type: ignore[attr-defined]
    stream = TargetStream(TargetStore(storage, "train"), house.plan, {"a": 1.0}, 0)
    names = house.names_of("a")
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
def test_a_damaged_unit_is_marked_and_waited_for(how: str, unit: int, house: House) -> None:
    mix = {"a": 0.7, "b": 0.3}
    expected = [content(r) for r in rows(house.stream(mix), 80)]
    damage(house.part(unit), how)
    found, waits = list[DamagedShard](), Counter[int]()

    def on_wait(waited: int, seconds: float) -> None:
        waits[waited] += 1
        if waits[waited] == 2:
            [mark] = house.store.log.damaged()
            assert (mark.unit, mark.revision, mark.by) == (unit, 0, "medical") and mark.part in mark.reason
            house.repair(unit)

    stream = house.stream(mix, on_wait=on_wait, on_damage=found.append, name="medical")
    assert [content(r) for r in rows(stream, 80)] == expected
    stream.close()
    assert [(d.unit, d.revision) for d in found] == [(unit, 0)] and waits == {unit: 2}
    assert house.store.log.damaged() == []
    assert stream.cursor.repaired == {unit: 1}


def test_damage_is_an_error_where_nobody_repairs(house: House) -> None:
    damage(house.part(0), "a flipped bit")
    stream = house.stream({"a": 1.0})
    with pytest.raises(DamagedShard, match="unit 0: the bytes of targets/train/parts/"):
        stream.next_batch(1)
    assert [d.unit for d in house.store.log.damaged()] == [0]
    with pytest.raises(DamagedShard):  # a second reporter's mark is no error
        house.stream({"a": 1.0}).next_batch(1)
    assert len(house.store.log.damaged()) == 1


def test_a_unit_that_was_repaired_meanwhile_is_not_waited_for(house: House) -> None:
    second = house.plan.of_domain("a")[1]
    expected = [content(r) for r in rows(house.stream({"a": 1.0}), 9)]
    stream = house.stream({"a": 1.0}, ahead=0)
    got = rows(stream, 1)
    damage(house.part(second), "deleted")
    house.repair(second)
    got += rows(stream, 8)
    assert [content(r) for r in got] == expected
    assert house.store.log.marks.all() == []


def test_a_false_alarm_is_read_again(house: House) -> None:
    path = house.part(0)
    data = path.read_bytes()
    damage(path, "truncated")

    def on_damage(damage: DamagedShard) -> None:
        path.write_bytes(data)
        house.store.log.marks.withdraw(0, 0)

    stream = house.stream({"a": 1.0}, on_damage=on_damage)
    assert stream.next_batch(1)[0].prompt_id == "u0.0" and stream.cursor.repaired == {}


def test_a_reader_for_which_all_is_damaged_does_not_try_for_ever(house: House) -> None:
    """Whoever repairs finds nothing wrong, every time."""
    damage(house.part(0), "truncated")
    alarms = list[int]()

    def on_damage(damage: DamagedShard) -> None:
        alarms.append(damage.unit)
        house.store.log.marks.withdraw(0, 0)

    with pytest.raises(DamagedStore, match="memory, the disk and the network of this machine"):
        house.stream({"a": 1.0}, on_damage=on_damage).next_batch(1)
    assert len(alarms) == 3


def test_storage_that_damages_every_repair_ends_the_reading(house: House) -> None:
    damage(house.part(0), "truncated")
    made = list[int]()

    def on_damage(found: DamagedShard) -> None:
        made.append(found.revision + 1)
        house.repair(0, found.revision + 1)
        damage(house.part(0), "a flipped bit")

    with pytest.raises(DamagedStore, match="taught again 3 times") as caught:
        house.stream({"a": 1.0}, on_damage=on_damage).next_batch(1)
    assert made == [1, 2, 3] and house.store.storage.uri in str(caught.value)


def test_a_missing_table_of_ranks_is_nothing_that_a_repair_would_mend(house: House) -> None:
    for key in house.store.rank_files.keys:
        house.store.storage.delete(key)
    with pytest.raises(DamagedStore, match="no shard of the store can be read"):
        house.stream({"a": 1.0}, on_damage=lambda damage: None).next_batch(1)
    assert house.store.log.damaged() == []


def test_a_cursor_knows_who_read_what_before_a_repair(build: Callable[..., House]) -> None:
    house = build([("a",), ("b",), ("a",)], [2, 2, 2]).commit_all()
    house.repair(1, 1)
    stream = house.stream({"a": 0.5, "b": 0.5})
    units_of = {d: house.plan.of_domain(d) for d in "ab"}

    def has_read(unit: int, below: int | None = None) -> bool:
        return Cursor.from_dict(json.loads(json.dumps(stream.cursor.to_dict()))).has_read(unit, units_of, below)

    assert not any(has_read(unit) for unit in range(3))
    while not has_read(1):
        rows(stream, 1)
    assert has_read(0, below=1) and not has_read(1, below=1) and has_read(1, below=2) and not has_read(2)
    rows(stream, 40)  # later epochs
    assert has_read(2, below=1) and not has_read(1, below=1)
    assert Cursor.from_dict({k: v for k, v in stream.cursor.to_dict().items() if k != "repaired"}).repaired == {}
