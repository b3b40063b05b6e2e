"""Micro-batches: every target once, from its own context, with its own weights."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
import torch

from workers.student.batching import MicroBatch, collate, idle_batch, micro_batches
from workers.student.config import LossConfig
from workers.targets.arrays import UnitTargets
from workers.targets.reader import TargetRow, rows_of
from workers.targets.schema import StoreHeader

MakeTargets = Callable[..., UnitTargets]
MakeHeader = Callable[..., StoreHeader]
Target = tuple[tuple[int, ...], tuple[tuple[int, float], ...]]

LOSSES = [LossConfig(kl=1, ce=0), LossConfig(kl=0, ce=1), LossConfig(kl=0.75, ce=0.5)]


@pytest.fixture(params=["systematic", "full", "full float16"])
def rows(request: pytest.FixtureRequest, make_header: MakeHeader, make_targets: MakeTargets) -> list[TargetRow]:
    scheme, _, precision = request.param.partition(" ")
    header = make_header(scheme=scheme, vocabulary=53, precision=precision or "float32")
    lengths, rng = [2, 9, 3, 9, 14, 2, 5, 6, 11, 4], np.random.default_rng(0)
    starts = [1, 3, 1, 8, 2, 1, 5, 1, 6, 3]  # one row has no target at all
    unit = make_targets(header, rng, [f"p{i}" for i in range(10)], lengths, starts)
    return rows_of(unit, header)


def expected_targets(rows: list[TargetRow], loss: LossConfig) -> Counter[Target]:
    """(context, weights by id) of every target position, by plain loops."""
    found: Counter[Target] = Counter()
    for row in rows:
        at = 0
        for t in range(row.targets):
            weights: Counter[int] = Counter()
            if row.logprobs is not None:
                p_V = np.exp(row.logprobs[t].astype(np.float64))
                weights.update({i: loss.kl * p / p_V.sum() for i, p in enumerate(p_V)})
            else:
                n = int(row.entries[t])
                total = int(row.counts[at : at + n].sum())
                weights.update(
                    {
                        int(i): loss.kl * int(c) / total
                        for i, c in zip(row.ids[at:][:n], row.counts[at:][:n], strict=True)
                    }
                )
                at += n
            weights[int(row.tokens[row.start + t])] += loss.ce  # type: ignore[assignment]
            found[(tuple(row.tokens[: row.start + t].tolist()), rounded(weights))] += 1
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
            found[(tuple(batch.input_BS[b, : s + 1].tolist()), rounded(weights))] += 1
    return found


def rounded(weights: Counter[int]) -> tuple[tuple[int, float], ...]:
    return tuple(sorted((i, round(w, 3)) for i, w in weights.items() if round(w, 3) > 0))


@pytest.mark.parametrize("loss", LOSSES, ids=str)
@pytest.mark.parametrize("most_tokens", [1, 20, 30, 10_000])
def test_every_target_is_in_one_micro_batch(rows: list[TargetRow], loss: LossConfig, most_tokens: int) -> None:
    assert found_targets(micro_batches(rows, loss, most_tokens)) == expected_targets(rows, loss)


@pytest.mark.parametrize("loss", LOSSES, ids=str)
def test_weights_of_a_target_sum_to_those_of_the_loss(rows: list[TargetRow], loss: LossConfig) -> None:
    for batch in micro_batches(rows, loss, 30):
        sums_T = batch.weights_TK.double().sum(-1)
        assert torch.allclose(sums_T, torch.full_like(sums_T, loss.kl + loss.ce), atol=1e-5)
        assert (batch.weights_TK >= 0).all()
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


def test_an_idle_batch_is_the_same_work_at_weight_0(rows: list[TargetRow]) -> None:
    batch = collate(rows, LossConfig())
    idle = idle_batch(batch)
    assert torch.equal(idle.input_BS, batch.input_BS) and torch.equal(idle.positions_T, batch.positions_T)
    assert idle.weights_TK.shape == batch.weights_TK.shape and (idle.weights_TK == 0).all()
    assert batch.weights_TK.sum() > 0
