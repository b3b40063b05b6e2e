"""A unit's arrays, in and out of Arrow and Parquet, and cut and joined by rows."""

from __future__ import annotations

import copy
import dataclasses
import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from workers.targets.encoding.arrays import UnitTargets
from workers.targets.encoding.codec import decode, decode_draw, encode, encode_draw
from workers.targets.encoding.schema import StoreHeader
from workers.targets.encoding.segments import segment_sums
from workers.targets.encoding.vocab_order import VocabOrder

MakeTargets = Callable[..., UnitTargets]
MakeHeader = Callable[..., StoreHeader]
FIELDS = [f.name for f in dataclasses.fields(UnitTargets)]
CASES: dict[str, dict[str, Any]] = {
    "systematic": {},
    "one draw": {"draws": 1},
    "multinomial": {"scheme": "multinomial"},
    "threshold": {"scheme": "threshold", "draws": 14},
    "topk": {"scheme": "topk", "top_k": 6},
    "topk of every id": {"scheme": "topk", "top_k": 97},
    "always-kept ids": {"always": (1, 96)},
    "threshold and an always-kept id": {"scheme": "threshold", "draws": 3, "always": (40,)},
    "topk and an always-kept id": {"scheme": "topk", "top_k": 6, "always": (0,)},
    "three draws": {"redraws": 3},
    "two threshold draws": {"scheme": "threshold", "redraws": 2},
    "full": {"scheme": "full", "vocabulary": 31},
    "full float16": {"scheme": "full", "vocabulary": 31, "precision": "float16"},
    "hidden": {"scheme": "hidden"},
    "hidden bfloat16": {"scheme": "hidden", "precision": "bfloat16"},
    "largest 16-bit vocabulary": {"vocabulary": 65_536},
    "larger vocabulary": {"vocabulary": 151_936},
}


@pytest.fixture(params=CASES)
def header(request: pytest.FixtureRequest, make_header: MakeHeader) -> StoreHeader:
    return make_header(**CASES[request.param])


def vocab_order_for(header: StoreHeader) -> VocabOrder:
    """A table that is not the identity; a `full` store has none."""
    if not header.sampled:
        return VocabOrder.identity(header.vocabulary)
    return VocabOrder(np.random.default_rng(7).permutation(header.vocabulary))


def arrays_of(unit: UnitTargets) -> dict[str, Any]:
    """Every field, with the entries of each position in order of their ids."""
    draws = {f"draw {i}": vars(draw.by_id()) for i, draw in enumerate(unit.draws)}
    drawn = {f"{name} {field}": array for name, arrays in draws.items() for field, array in arrays.items()}
    plain = {name: getattr(unit, name) for name in FIELDS if name not in ("num_kept", "ids", "counts", "redraws")}
    return drawn | plain


def assert_equal(one: UnitTargets, other: UnitTargets) -> None:
    mine, theirs = arrays_of(one), arrays_of(other)
    assert mine.keys() == theirs.keys()
    for name, a in mine.items():
        if isinstance(a, np.ndarray):
            assert a.dtype == theirs[name].dtype, name
            np.testing.assert_array_equal(a, theirs[name], err_msg=name)
        else:
            assert a == theirs[name], name


def through_parquet(unit: UnitTargets, header: StoreHeader) -> UnitTargets:
    vocab_order = vocab_order_for(header)
    found = decode(written(encode(unit, header, vocab_order)), header, vocab_order)
    found.redraws = [
        decode_draw(written(encode_draw(draw, unit.target_lengths, header, vocab_order)), header, vocab_order)
        for draw in unit.redraws
    ]
    return found


@pytest.mark.parametrize("unusual", [[], [70_000], [65_535, 65_536, 300_000], [655_359]], ids=str)
def test_counts_of_a_long_text_that_are_all_alike(
    unusual: list[int], make_header: MakeHeader, make_targets: MakeTargets
) -> None:
    """Of 32,768 targets with twenty entries each: more of the usual count in a row than sixteen bits hold."""
    header, T, K = make_header(scheme="threshold", vocabulary=40, draws=20), 32_768, 20
    unit = make_targets(header, np.random.default_rng(0), ["a"], [T + 1], [1])
    unit.num_kept = np.full(T, K, np.uint16)
    unit.ids = (np.arange(K)[None] + np.arange(T)[:, None] % K).astype(np.uint32).reshape(-1)
    unit.counts = np.full(T * K, header.usual_count, np.uint16)
    unit.counts[unusual] += 1
    assert_equal(through_parquet(unit, header), unit)


def written(table: pa.Table) -> pa.Table:
    file = io.BytesIO()
    pq.write_table(table, file)
    return pq.read_table(file)


def test_round_trip_array_for_array(header: StoreHeader, make_targets: MakeTargets) -> None:
    unit = make_targets(header, np.random.default_rng(0), [f"p{i}" for i in range(9)])
    vocab_order = vocab_order_for(header)
    assert_equal(decode(encode(unit, header, vocab_order), header, vocab_order), unit.with_draw(0))
    assert_equal(through_parquet(unit, header), unit)
    assert through_parquet(unit, header).content_hash() == unit.content_hash()


def test_round_trip_of_the_largest_ids(make_header: MakeHeader, make_targets: MakeTargets) -> None:
    for vocabulary in (65_536, 65_537, 262_144):
        header = make_header(vocabulary=vocabulary)
        unit = make_targets(header, np.random.default_rng(1), ["a", "b"], lengths=[3, 2], starts=[1, 1])
        unit.num_kept = np.array([2, 1, 3], np.uint16)
        last = vocabulary - 1
        unit.ids = np.array([0, last, last, 0, 1, last], np.uint32)
        unit.counts = np.array([20, 1, 21, 1, 1, 19], np.uint16)
        unit.tokens[-1] = last
        assert_equal(through_parquet(unit, header), unit)


def test_round_trip_of_short_rows(header: StoreHeader, make_targets: MakeTargets) -> None:
    """A text of one token has no target; a text may also end where its targets would start."""
    names, lengths, starts = ["a", "b", "c", "d"], [1, 2, 1, 5], [1, 1, 0, 5]
    unit = make_targets(header, np.random.default_rng(2), names, lengths, starts)
    assert_equal(through_parquet(unit, header), unit)


def test_round_trip_of_nothing(header: StoreHeader) -> None:
    unit = through_parquet(UnitTargets(), header)
    assert unit.rows == 0 and unit.prompt_uids == [] and unit.texts == []
    assert all(len(array) == 0 for name, array in arrays_of(unit).items() if name != "temperature")


def test_texts_keep_every_character(make_header: MakeHeader, make_targets: MakeTargets) -> None:
    header = make_header()
    unit = make_targets(header, np.random.default_rng(3), ["", "日本", "p\nq"])
    unit.texts = ["", "naïve 🦉\n\ttext\x00", "ends in space "]
    assert_equal(through_parquet(unit, header), unit)


# Content hash -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["systematic", "topk", "full"])
@pytest.mark.parametrize("name", [name for name in FIELDS if name not in ("redraws", "temperature")])
def test_the_content_hash_sees_every_array(
    scheme: str, name: str, make_header: MakeHeader, make_targets: MakeTargets
) -> None:
    header = make_header(scheme=scheme, top_k=4, always=() if scheme == "full" else (5,))
    unit = make_targets(header, np.random.default_rng(4), ["a", "b", "c"])
    if len(getattr(unit, name)) == 0:
        return  # not an array of this scheme
    if name == "num_kept":
        assert unit.num_kept[1] > 1
    for place in (0, -1):
        other = copy.deepcopy(unit)
        values = getattr(other, name)
        values[place] = values[place] + ("x" if isinstance(values, list) else 1)
        if name == "num_kept":
            values[1] -= 1  # their sum is that of the ids
        assert other.content_hash() != unit.content_hash()
    assert copy.deepcopy(unit).content_hash() == unit.content_hash()


def test_the_content_hash_sees_every_draw_and_the_temperature(
    make_header: MakeHeader, make_targets: MakeTargets
) -> None:
    unit = make_targets(make_header(redraws=3), np.random.default_rng(4), ["a", "b", "c"])
    other = copy.deepcopy(unit)
    other.redraws[1].counts[-1] += 1
    hashes = {u.content_hash() for u in (unit, other, unit.with_draw(0), unit.with_draw(2))}
    hashes.add(dataclasses.replace(unit, temperature=1.5).content_hash())
    assert len(hashes) == 5


def test_the_content_hash_sees_the_order_of_rows(make_header: MakeHeader, make_targets: MakeTargets) -> None:
    unit = make_targets(make_header(), np.random.default_rng(5), ["a", "b", "c"])
    assert unit.select(np.array([1, 0, 2])).content_hash() != unit.content_hash()


def test_the_content_hash_sees_where_an_id_ends_and_a_text_begins(
    make_header: MakeHeader, make_targets: MakeTargets
) -> None:
    unit = make_targets(make_header(), np.random.default_rng(6), ["prompt-1"])
    unit.texts = ["2 eggs"]
    other = copy.deepcopy(unit)
    other.prompt_uids, other.texts = ["prompt-12"], [" eggs"]
    assert other.content_hash() != unit.content_hash()


# Rows -------------------------------------------------------------------------------------------------------


def row(unit: UnitTargets, r: int, header: StoreHeader) -> dict[str, Any]:
    """One row by plain loops over the flat arrays."""
    t0, k0 = int(unit.lengths[:r].sum()), int((unit.lengths - unit.starts)[:r].sum())
    t1, k1 = t0 + int(unit.lengths[r]), k0 + int(unit.lengths[r] - unit.starts[r])
    found = {
        "id": unit.prompt_uids[r],
        "text": unit.texts[r],
        "sample": int(unit.samples[r]),
        "start": int(unit.starts[r]),
        **{n: getattr(unit, n)[t0:t1].tolist() for n in ("tokens", "ends")},
        **{n: getattr(unit, n)[k0:k1].tolist() for n in ("entropy", "token_logprob")},
    }
    if header.scheme == "full":
        return found | {"logprobs": unit.logprobs.reshape(-1, header.vocabulary)[k0:k1].tolist()}
    e0, e1 = int(unit.num_kept[:k0].sum()), int(unit.num_kept[:k1].sum())
    exact = unit.always.reshape(int((unit.lengths - unit.starts).sum()), -1)[k0:k1]
    found |= {"tail": unit.tail[k0:k1].tolist(), "always": exact.tolist()}
    found["redraws"] = [
        (d.num_kept[k0:k1].tolist(), d.ids[int(d.num_kept[:k0].sum()) :][: int(d.num_kept[k0:k1].sum())].tolist())
        for d in unit.redraws
    ]
    return found | {
        "num_kept": unit.num_kept[k0:k1].tolist(),
        "ids": unit.ids[e0:e1].tolist(),
        "counts": unit.counts[e0:e1].tolist(),
    }


def test_select_takes_rows_in_the_given_order(header: StoreHeader, make_targets: MakeTargets) -> None:
    unit = make_targets(header, np.random.default_rng(7), [f"p{i}" for i in range(6)])
    for rows in ([4, 0, 5], [2], [5, 4, 3, 2, 1, 0], [1, 1], list(range(6))):
        chosen = unit.select(np.array(rows, np.int64))
        assert [row(chosen, i, header) for i in range(chosen.rows)] == [row(unit, r, header) for r in rows]


def test_select_of_no_rows(header: StoreHeader, make_targets: MakeTargets) -> None:
    unit = make_targets(header, np.random.default_rng(8), ["a", "b"])
    assert unit.select(np.zeros(0, np.int64)).rows == 0


def test_join_is_the_inverse_of_cutting(header: StoreHeader, make_targets: MakeTargets) -> None:
    unit = make_targets(header, np.random.default_rng(9), [f"p{i}" for i in range(7)])
    for cuts in ([], [3], [1, 2, 6], [0, 7]):
        pieces = [unit.select(rows) for rows in np.split(np.arange(7), cuts)]
        assert_equal(UnitTargets.join(pieces), unit)


def test_segment_sums_with_empty_segments() -> None:
    values, lengths = np.array([1, 2, 3, 4], np.uint16), np.array([0, 2, 0, 1, 1, 0])
    assert segment_sums(values, lengths).tolist() == [0, 3, 0, 3, 4, 0]
