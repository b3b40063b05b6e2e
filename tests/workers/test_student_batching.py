"""Micro-batches: every target once, from its own context, with its own weights."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from workers.student.batching import MicroBatch, collate, entropy_floor, idle_batch, micro_batches
from workers.student.config import LossConfig
from workers.targets.arrays import UnitTargets
from workers.targets.reader import TargetRow, rows_of
from workers.targets.scalars import probability_codes
from workers.targets.schema import StoreHeader

MakeTargets = Callable[..., UnitTargets]
MakeHeader = Callable[..., StoreHeader]
Target = tuple[tuple[int, ...], tuple[tuple[int, float], ...], float, float]

LOSSES = [LossConfig(kl=1, ce=0), LossConfig(kl=0, ce=1), LossConfig(kl=0.75, ce=0.5)]


STORES: dict[str, dict[str, Any]] = {
    "systematic": {},
    "always-kept ids": {"always": (3, 50)},
    "full": {"scheme": "full"},
    "full float16": {"scheme": "full", "precision": "float16"},
    "topk": {"scheme": "topk", "top_k": 6},
}


@pytest.fixture(params=[(store, heat) for store in STORES for heat in (1.0, 2.0)], ids=str)
def rows(request: pytest.FixtureRequest, make_header: MakeHeader, make_targets: MakeTargets) -> list[TargetRow]:
    store, heat = request.param
    header = make_header(vocabulary=53, **STORES[store])
    lengths, rng = [2, 9, 3, 9, 14, 2, 5, 6, 11, 4], np.random.default_rng(0)
    starts = [1, 3, 1, 8, 2, 1, 5, 1, 6, 3]  # one row has no target at all
    unit = make_targets(header, rng, [f"p{i}" for i in range(10)], lengths, starts)
    unit.temperature = heat
    return rows_of(unit, header)


def expected_targets(rows: list[TargetRow], loss: LossConfig) -> Counter[Target]:
    """(context, weights by id, tail, temperature) of every target, by plain loops."""
    found: Counter[Target] = Counter()
    apart = bool(loss.kl and loss.ce) and (rows[0].temperature != 1 or len(rows[0].tail) > 0)
    for row in rows:
        at = 0
        for t in range(row.targets):
            weights: Counter[int] = Counter()
            if row.logprobs is not None:
                p_V = np.exp(row.logprobs[t].astype(np.float64))
                weights.update({i: loss.kl * p / p_V.sum() for i, p in enumerate(p_V)})
            else:
                n = int(row.entries[t])
                kept = zip(row.ids[at:][:n].tolist(), row.weights[at:][:n].tolist(), strict=True)
                weights.update({i: loss.kl * w for i, w in kept})
                at += n
            tail = loss.kl * float(row.tail[t]) if len(row.tail) else 0.0
            label, context = int(row.tokens[row.start + t]), tuple(row.tokens[: row.start + t].tolist())
            if apart or not loss.kl:
                found[(context, rounded(Counter({label: loss.ce})), 0.0, 1.0)] += 1  # type: ignore[dict-item]
            else:
                weights[label] += loss.ce  # type: ignore[assignment]
            if loss.kl:
                found[(context, rounded(weights), round(tail, 3), row.temperature)] += 1
    return found


def found_targets(batches: list[MicroBatch]) -> Counter[Target]:
    found: Counter[Target] = Counter()
    for batch in batches:
        S = batch.input_BS.shape[1]
        for k, position in enumerate(batch.positions_T.tolist()):
            b, s = divmod(position, S)
            assert batch.mask_BS[b, : s + 1].all()
            weights: Counter[int] = Counter()
            ids = range(batch.weights_TK.shape[1]) if batch.ids_TK is None else batch.ids_TK[k].tolist()
            for i, w in zip(ids, batch.weights_TK[k].tolist(), strict=True):
                weights[i] += w
            tail = float(batch.tail_T[k]) if batch.tail_T is not None else 0.0
            heat = float(batch.temperature_T[k]) if batch.temperature_T is not None else 1.0
            found[(tuple(batch.input_BS[b, : s + 1].tolist()), rounded(weights), round(tail, 3), heat)] += 1
    return found


def rounded(weights: Counter[int]) -> tuple[tuple[int, float], ...]:
    return tuple(sorted((i, round(w, 3)) for i, w in weights.items() if round(w, 3) != 0))


@pytest.mark.parametrize("loss", LOSSES, ids=str)
@pytest.mark.parametrize("most_tokens", [1, 20, 30, 10_000])
def test_every_target_is_in_one_micro_batch(rows: list[TargetRow], loss: LossConfig, most_tokens: int) -> None:
    assert found_targets(micro_batches(rows, loss, most_tokens)) == expected_targets(rows, loss)


@pytest.mark.parametrize("loss", LOSSES, ids=str)
def test_weights_of_a_target_sum_to_those_of_the_loss(rows: list[TargetRow], loss: LossConfig) -> None:
    for batch in micro_batches(rows, loss, 30):
        if batch.tail_T is not None:
            continue  # random codes of a `topk` store sum to anything
        sums_T = batch.weights_TK.double().sum(-1)
        apart = batch.temperature_T is not None and loss.ce
        each = {loss.kl, loss.ce} if apart and loss.kl else {loss.kl + loss.ce}
        assert {round(x, 4) for x in sums_T.tolist()} <= {round(x, 4) for x in each}
        assert batch.targets == len(batch.weights_TK)


def test_micro_batches_are_within_their_tokens(rows: list[TargetRow]) -> None:
    for most in (15, 30, 60):
        batches = micro_batches(rows, LossConfig(), most)
        assert all(b.input_BS.numel() <= most or len(b.input_BS) == 1 for b in batches)
        assert sum(len(b.input_BS) for b in batches) == len(rows)
    assert len(micro_batches(rows, LossConfig(), 10_000)) == 1


def test_the_order_of_rows_does_not_matter(rows: list[TargetRow]) -> None:
    one, two = micro_batches(rows, LossConfig(), 30), micro_batches(rows[::-1], LossConfig(), 30)
    assert all(
        torch.equal(a.input_BS, b.input_BS) and torch.equal(a.weights_TK, b.weights_TK)
        for a, b in zip(one, two, strict=True)
    )


def test_padding_is_masked_and_no_target(rows: list[TargetRow]) -> None:
    batch = collate(rows, LossConfig())
    lengths = sorted(len(r.tokens) - 1 for r in rows)
    assert sorted(batch.mask_BS.sum(-1).tolist()) == lengths
    assert (batch.input_BS[batch.mask_BS == 0] == 0).all()
    assert batch.mask_BS.flatten()[batch.positions_T].all()


def test_padding_names_no_id_outside_the_tail(rows: list[TargetRow]) -> None:
    """An id named with weight 0 would be taken out of the tail's mass."""
    batch = collate(rows, LossConfig(kl=1, ce=0.5))
    if batch.tail_T is None or batch.ids_TK is None:
        return
    labels = batch.tail_T == 0
    for ids, label in zip(batch.ids_TK.tolist(), labels.tolist(), strict=True):
        assert len(set(ids)) == (1 if label else 6)


def test_the_floor_of_the_loss_is_the_entropy_of_its_outcomes(
    make_header: MakeHeader, make_targets: MakeTargets
) -> None:
    rng = np.random.default_rng(0)
    header = make_header(scheme="topk", top_k=3)
    unit = make_targets(header, rng, ["a"], [5], [1])
    p_TK = rng.dirichlet(np.ones(4), 4)
    unit.counts = probability_codes(p_TK[:, :3], np.zeros((4, 3))).reshape(-1)
    unit.tail = probability_codes(p_TK[:, 3], np.zeros(4))
    expected = -(p_TK * np.log(p_TK)).sum(1).mean()
    assert entropy_floor(rows_of(unit, header)) == pytest.approx(expected, rel=2e-3)
    unit.temperature = 3.0
    assert entropy_floor(rows_of(unit, header)) == pytest.approx(9 * expected, rel=2e-3)
    plain = make_targets(make_header(), rng, ["a", "b"])
    assert entropy_floor(rows_of(plain, make_header())) == pytest.approx(plain.entropy.astype(float).mean())


def test_an_idle_batch_is_the_same_work_at_weight_0(rows: list[TargetRow]) -> None:
    batch = collate(rows, LossConfig())
    idle = idle_batch(batch)
    assert torch.equal(idle.input_BS, batch.input_BS) and torch.equal(idle.positions_T, batch.positions_T)
    assert idle.weights_TK.shape == batch.weights_TK.shape and (idle.weights_TK == 0).all()
    assert batch.weights_TK.sum() > 0
