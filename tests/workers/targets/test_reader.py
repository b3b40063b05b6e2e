"""The sequence that a specialist reads: a function of plan, contents, seed and mix, never of when things arrive."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest
from support.store_fixture import StoreFixture, content, rows

from workers.student.batches.texts import shape_rows
from workers.student.config import TextsConfig
from workers.targets.reader import Cursor, TargetRow, TargetStream, rows_of

# Rows -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["systematic", "full"])
def test_rows_hold_their_part_of_the_unit(scheme: str, build: Callable[..., StoreFixture]) -> None:
    filled = build(scheme=scheme)
    unit, V = filled.contents[0], filled.store.header.vocabulary
    found = rows_of(unit, filled.store.header)
    assert [r.prompt_uid for r in found] == unit.prompt_uids
    for r, row in enumerate(found):
        alone = unit.select(np.array([r]))
        assert row.start == alone.starts[0] and row.targets == alone.target_lengths[0]
        for name in ("tokens", "entropy", "token_logprob", "ids"):
            np.testing.assert_array_equal(getattr(row, name), getattr(alone, name))
        np.testing.assert_allclose(row.weights, alone.counts / filled.store.header.draws, rtol=1e-6)
        if scheme == "full":
            assert row.logprobs is not None and row.logprobs.shape == (row.targets, V)
            np.testing.assert_array_equal(row.logprobs.reshape(-1), alone.logprobs)
        else:
            assert row.logprobs is None and row.num_kept.sum() == len(row.ids)


def test_hidden_states_come_with_their_type_and_their_teacher(build: Callable[..., StoreFixture]) -> None:
    filled = build(scheme="hidden", precision="bfloat16").commit_all()
    units = tuple(replace(unit, teacher=f"t{unit.index % 2}") for unit in filled.plan.units)
    filled.plan = replace(filled.plan, units=units)
    of_name = {name: u for u, unit in enumerate(filled.contents) for name in unit.prompt_uids}
    for row in rows(filled.stream({"a": 0.5, "b": 0.5}), 12):
        unit = filled.contents[of_name[row.prompt_uid]]
        alone = unit.select(np.array([unit.prompt_uids.index(row.prompt_uid)]))
        assert (row.precision, row.teacher) == ("bfloat16", f"t{of_name[row.prompt_uid] % 2}")
        assert row.hidden is not None and row.logprobs is None
        np.testing.assert_array_equal(row.hidden.reshape(-1), alone.hidden)


# Determinism ------------------------------------------------------------------------------------------------


def test_a_live_stream_is_that_of_a_finished_store(build: Callable[..., StoreFixture]) -> None:
    """Units arrive in another order than planned, while the reader waits for them."""
    filled, mix = build(), {"a": 0.5, "b": 0.3, "c": 0.2}
    order = np.random.default_rng(5).permutation(len(filled.contents)).tolist()
    assert order != sorted(order)

    def arrive() -> None:
        for unit in order:
            time.sleep(0.02)
            filled.commit(unit)

    writer = threading.Thread(target=arrive)
    writer.start()
    live = [content(r) for r in rows(filled.stream(mix), 90)]
    writer.join()
    assert live == [content(r) for r in rows(filled.stream(mix), 90)]


def test_a_waiting_reader_says_for_which_unit(build: Callable[..., StoreFixture]) -> None:
    filled = build()
    waits: list[tuple[int, float]] = []

    def on_wait(unit: int, seconds: float) -> None:
        waits.append((unit, seconds))
        if len(waits) == 2:
            filled.commit(0)

    stream = TargetStream(filled.store, filled.plan, {"a": 1.0}, 0, on_wait=on_wait)
    assert stream.next_batch(1)[0].prompt_uid == "u0.0"
    assert [unit for unit, _ in waits] == [0, 0]
    assert waits[0][1] <= waits[1][1]


@pytest.mark.parametrize("mix", [{"a": 1.0}, {"a": 0.6, "b": 0.4}, {"c": 0.1, "b": 0.2, "a": 0.7}])
def test_a_reader_resumes_where_another_stopped(mix: dict[str, float], filled: StoreFixture) -> None:
    """From a cursor that went through JSON, at every batch of several epochs."""
    whole, batches, cursors = filled.stream(mix), [], []
    for _ in range(40):
        cursors.append(json.dumps(whole.cursor.to_dict()))
        batches.append([content(r) for r in whole.next_batch(17)])
    for n, text in enumerate(cursors):
        resumed = filled.stream(mix, cursor=Cursor.from_dict(json.loads(text)))
        assert [[content(r) for r in resumed.next_batch(17)] for _ in range(3)][: 40 - n] == batches[n : n + 3]


def test_a_cursor_of_another_generation_is_refused(filled: StoreFixture) -> None:
    """The same unit numbers mean other prompts there."""
    saved = filled.stream({"a": 1.0}).cursor.to_dict()
    other = Cursor.from_dict(saved | {"generation": "g0001"})
    with pytest.raises(ValueError, match=r"generation g0001, .*g0000"):
        filled.stream({"a": 1.0}, cursor=other)


def test_a_saved_cursor_does_not_move(filled: StoreFixture) -> None:
    stream = filled.stream({"a": 0.5, "b": 0.5})
    stream.next_batch(20)
    saved = stream.cursor.to_dict()
    before = json.dumps(saved)
    stream.next_batch(20)
    assert json.dumps(saved) == before


def test_the_sequence_does_not_depend_on_the_size_of_batches(filled: StoreFixture) -> None:
    mix = {"a": 0.6, "b": 0.4}

    def first(n: int, targets: int) -> list[str]:
        stream, found = filled.stream(mix), list[str]()
        while len(found) < n:
            found += [r.prompt_uid for r in stream.next_batch(targets)]
        return found[:n]

    assert first(70, 1) == first(70, 13) == first(70, 200)


def test_a_batch_holds_just_enough_targets(filled: StoreFixture) -> None:
    stream = filled.stream({"a": 0.6, "b": 0.4})
    for targets in (1, 10, 25, 60):
        batch = stream.next_batch(targets)
        assert sum(r.targets for r in batch) >= targets > sum(r.targets for r in batch[:-1])


# Mix --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mix", [{"a": 0.7, "b": 0.3}, {"a": 1.0, "b": 1.0}, {"a": 0.05, "b": 0.9, "c": 0.05}])
def test_shares_of_target_tokens_follow_the_mix(mix: dict[str, float], filled: StoreFixture) -> None:
    """At every point, tokens over weight differ between domains by at most one row's."""
    stream = filled.stream(mix)
    largest = max(int(u.target_lengths.max()) for u in filled.contents)
    for _ in range(300):
        stream.next_batch(1)
        paces = [p.served / mix[d] for d, p in stream.cursor.domains.items()]
        assert max(paces) - min(paces) <= largest / min(mix.values())
    total = sum(p.served for p in stream.cursor.domains.values())
    for domain, weight in mix.items():
        share = stream.cursor.domains[domain].served / total
        assert abs(share - weight / sum(mix.values())) < 0.03


def test_the_scale_of_the_mix_does_not_matter(filled: StoreFixture) -> None:
    small, large = filled.stream({"a": 0.25, "b": 0.75}), filled.stream({"a": 1.0, "b": 3.0})
    assert [r.prompt_uid for r in rows(small, 60)] == [r.prompt_uid for r in rows(large, 60)]


def test_a_prompt_of_two_domains_is_in_both(filled: StoreFixture) -> None:
    shared = set(filled.contents[2].prompt_uids)
    for domain in ("a", "b"):
        names = filled.names_of(domain)
        seen = [r.prompt_uid for r in rows(filled.stream({domain: 1.0}), len(names))]
        assert shared <= set(seen) and seen == names


def test_a_domain_of_weight_0_is_left_out(filled: StoreFixture) -> None:
    stream = filled.stream({"a": 1.0, "b": 0.0})
    assert {r.prompt_uid for r in rows(stream, 30)} <= set(filled.names_of("a"))


def test_an_unknown_domain_is_refused_by_name(filled: StoreFixture) -> None:
    with pytest.raises(ValueError, match="'medicine'") as caught:
        filled.stream({"a": 1.0, "medicine": 1.0})
    assert "'a', 'b', 'c'" in str(caught.value)


# Epochs -----------------------------------------------------------------------------------------------------


def epochs(stream: TargetStream, length: int) -> Iterator[list[str]]:
    while True:
        yield [r.prompt_uid for r in rows(stream, length)]


@pytest.mark.parametrize("domain", ["a", "b", "c"])
def test_a_domain_wraps_and_each_epoch_holds_each_row_once(domain: str, filled: StoreFixture) -> None:
    names = filled.names_of(domain)
    stream = filled.stream({domain: 1.0})
    seen = [epoch for epoch, _ in zip(epochs(stream, len(names)), range(5), strict=False)]
    assert seen[0] == names  # plan order first, so that a reader can follow the teacher
    assert all(Counter(epoch) == Counter(names) for epoch in seen)
    assert len({tuple(epoch) for epoch in seen}) == 5


def test_later_epochs_shuffle_units_and_rows(build: Callable[..., StoreFixture]) -> None:
    filled = build([("a",)] * 12, [6] * 12).commit_all()
    stream = filled.stream({"a": 1.0})
    rows(stream, 72)
    second, third = ([r.prompt_uid for r in rows(stream, 72)] for _ in range(2))
    units, later = (list(dict.fromkeys(name.split(".")[0] for name in epoch)) for epoch in (second, third))
    assert units != [f"u{u}" for u in range(12)] and later != units
    within = {u: [name for name in second if name.split(".")[0] == u] for u in units}
    assert any(names != sorted(names) for names in within.values())


@pytest.mark.parametrize("ahead", [0, 3])
def test_each_epoch_trains_on_the_next_draw(ahead: int, build: Callable[..., StoreFixture]) -> None:
    """With two draws: the first, the second, the first again; the texts stay what they are."""
    filled = build(redraws=2, always=(5,)).commit_all()
    stream = filled.stream({"c": 1}, ahead=ahead)
    units = filled.plan.of_domain("c")
    own = {name: u for u in units for name in filled.contents[u].prompt_uids}
    for epoch in range(4):
        for row in rows(stream, len(own)):
            unit = filled.contents[own[row.prompt_uid]].with_draw(epoch % 2)
            expected = rows_of(unit, filled.store.header)[unit.prompt_uids.index(row.prompt_uid)]
            assert row.tokens.tolist() == expected.tokens.tolist()
            for name in ("num_kept", "ids", "weights"):
                np.testing.assert_array_equal(np.sort(getattr(row, name)), np.sort(getattr(expected, name)))
    stream.close()


def test_another_seed_is_another_order_of_later_epochs(filled: StoreFixture) -> None:
    n = len(filled.names_of("a"))
    one, two = (rows(filled.stream({"a": 1.0}, seed), 2 * n) for seed in (1, 2))
    assert [r.prompt_uid for r in one[:n]] == [r.prompt_uid for r in two[:n]]
    assert [r.prompt_uid for r in one[n:]] != [r.prompt_uid for r in two[n:]]


# Units of nothing -------------------------------------------------------------------------------------------


def test_a_unit_of_nothing_is_passed_over(build: Callable[..., StoreFixture]) -> None:
    filled = build([("a",)] * 5, [0, 3, 0, 2, 0]).commit_all()
    names = filled.names_of("a")
    assert len(names) == 5
    stream = filled.stream({"a": 1.0})
    for epoch, _ in zip(epochs(stream, 5), range(4), strict=False):
        assert Counter(epoch) == Counter(names)


@pytest.mark.parametrize("mix", [{"a": 1.0}, {"a": 0.5, "b": 0.5}])
def test_a_domain_whose_texts_are_all_too_long_is_an_error(
    mix: dict[str, float], build: Callable[..., StoreFixture]
) -> None:
    """Its rows are there, but have no target."""
    filled = build([("a",), ("a",), ("b",)], [3, 2, 4]).commit_all()

    def shape(unit: int, rows: list[TargetRow]) -> list[TargetRow]:
        none = TextsConfig(max_tokens=2, long="reject") if unit < 2 else TextsConfig()
        return shape_rows(rows, none, None)

    with pytest.raises(ValueError, match="'a' was rejected or has no target"):
        filled.stream(mix, shape=shape).next_batch(1000)


def test_texts_too_long_for_the_reader_are_counted_once(build: Callable[..., StoreFixture]) -> None:
    filled = build([("a",)] * 3, [4, 3, 2]).commit_all()
    lengths = [len(r.tokens) for r in rows(filled.stream({"a": 1.0}), 9)]
    most = sorted(lengths)[4]
    stream = filled.stream({"a": 1.0}, shape=lambda unit, found: shape_rows(found, rules, None))
    rules = TextsConfig(max_tokens=most, long="reject")
    kept = sum(n for n in lengths if n <= most)
    assert 0 < len([n for n in lengths if n > most]) < 9
    learned = stream.next_batch(3 * kept)  # several epochs
    assert max(len(r.tokens) for r in learned) <= most
    assert stream.cursor.rejected == len([n for n in lengths if n > most])


@pytest.mark.parametrize("mix", [{"a": 1.0}, {"a": 0.5, "b": 0.5}])
def test_a_domain_of_nothing_but_empty_units_is_an_error(
    mix: dict[str, float], build: Callable[..., StoreFixture]
) -> None:
    filled = build([("a",), ("a",), ("b",)], [0, 0, 4]).commit_all()
    with pytest.raises(ValueError, match="'a' was rejected"):
        filled.stream(mix).next_batch(1000)
