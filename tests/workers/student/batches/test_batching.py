"""Micro-batches: every target once, from its own context, with its own weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from support.comparing.tolerances import of_sums

from workers.student.batches.batching import MicroBatch, collate, micro_batches, shares
from workers.student.batches.packing import Layout, Texts, group_rows, lay_out
from workers.student.config import LossConfig
from workers.targets.encoding.arrays import UnitTargets
from workers.targets.encoding.scalars import probability_codes
from workers.targets.encoding.schema import StoreHeader
from workers.targets.reader import TargetRow, rows_of

MakeTargets = Callable[..., UnitTargets]
MakeHeader = Callable[..., StoreHeader]
Target = tuple[tuple[int, ...], int, float, list[float]]
"""Context, label, temperature, and the weights of all ids, the tail and the label."""
V = 53

LOSSES = [LossConfig(kl=1, ce=0), LossConfig(kl=0, ce=1), LossConfig(kl=0.75, ce=0.5)]


STORES: dict[str, dict[str, Any]] = {
    "systematic": {},
    "always-kept ids": {"always": (3, 50)},
    "full": {"scheme": "full"},
    "full float16": {"scheme": "full", "precision": "float16"},
    "topk": {"scheme": "topk", "top_k": 6},
}


@pytest.fixture(params=[(store, temperature) for store in STORES for temperature in (1.0, 2.0)], ids=str)
def rows(request: pytest.FixtureRequest, make_header: MakeHeader, make_targets: MakeTargets) -> list[TargetRow]:
    store, temperature = request.param
    header = make_header(vocabulary=V, **STORES[store])
    lengths, rng = [2, 9, 3, 9, 14, 2, 5, 6, 11, 4], np.random.default_rng(0)
    starts = [1, 3, 1, 8, 2, 1, 5, 1, 6, 3]  # one row has no target at all
    unit = make_targets(header, rng, [f"p{i}" for i in range(10)], lengths, starts)
    unit.temperature = temperature
    return rows_of(unit, header)


def expected_targets(rows: list[TargetRow], loss: LossConfig) -> list[Target]:
    """Every target, by plain loops."""
    found = []
    for row in rows:
        at, soft = 0, loss.kl * row.temperature**2
        for t in range(row.targets):
            weights = np.zeros(V + 2)
            if row.logprobs is not None:
                p_V = np.exp(row.logprobs[t].astype(np.float64))
                weights[:V] = soft * p_V / p_V.sum()
            else:
                n = int(row.num_kept[t])
                np.add.at(weights, row.ids[at:][:n].astype(np.int64), soft * row.weights[at:][:n].astype(np.float64))
                at += n
            weights[V:] = soft * float(row.tail[t]) if len(row.tail) else 0, loss.ce
            label, context = int(row.tokens[row.start + t]), tuple(row.tokens[: row.start + t].tolist())
            found.append((context, label, row.temperature if loss.kl else 1.0, weights.tolist()))
    return sorted(found)


def found_targets(batches: list[MicroBatch]) -> list[Target]:
    found = []
    for batch in batches:
        texts, targets = batch.texts, batch.targets
        for k, context in enumerate(contexts(texts)):
            weights = np.zeros(V + 2)
            soft = float(targets.soft_T[k]) if targets.soft_T is not None else 0.0
            if targets.weights_TK is not None:
                kept = targets.weights_TK[k].double().numpy()
                ids = np.arange(len(kept)) if targets.ids_TK is None else targets.ids_TK[k].numpy()
                np.add.at(weights, ids, soft * kept)
            weights[V:] = soft * float(targets.tail_T[k]) if targets.tail_T is not None else 0, targets.hard_T[k]
            temperature = float(targets.temperature_T[k]) if targets.temperature_T is not None else 1.0
            found.append((context, int(targets.labels_T[k]), temperature, weights.tolist()))
    return sorted(found)


def contexts(texts: Texts) -> list[tuple[int, ...]]:
    """What each target position may see: the tokens of its own text up to it."""
    found = []
    for position in texts.positions_T.tolist():
        if texts.lengths is not None:
            assert texts.place_BS is not None
            first = position - int(texts.place_BS[0, position])
            found.append(tuple(texts.input_BS[0, first : position + 1].tolist()))
        else:
            b, s = divmod(position, texts.input_BS.shape[1])
            assert texts.mask_BS is not None and texts.mask_BS[b, : s + 1].all()
            found.append(tuple(texts.input_BS[b, : s + 1].tolist()))
    return found


@pytest.mark.parametrize("layout", ["packed", "padded"])
@pytest.mark.parametrize("loss", LOSSES, ids=str)
@pytest.mark.parametrize("most_tokens", [1, 20, 30, 10_000])
def test_every_target_is_in_one_micro_batch(
    rows: list[TargetRow], loss: LossConfig, most_tokens: int, layout: Layout
) -> None:
    found, expected = found_targets(micro_batches(rows, loss, most_tokens, layout)), expected_targets(rows, loss)
    assert [target[:3] for target in found] == [target[:3] for target in expected]
    # Weights of at most 4, as is the square of a temperature of 2; those of a whole distribution are a softmax.
    weights = [[target[3] for target in targets] for targets in (found, expected)]
    np.testing.assert_allclose(*weights, rtol=0, atol=4 * of_sums(V))


@pytest.mark.parametrize("layout", ["packed", "padded"])
def test_micro_batches_are_within_their_tokens(rows: list[TargetRow], layout: Layout) -> None:
    for most in (15, 30, 60):
        groups = group_rows(rows, most, layout)
        sizes = [lay_out(g, layout).input_BS.numel() for g in groups]
        assert all(size <= most or len(g) == 1 for g, size in zip(groups, sizes, strict=True))
        assert sorted(r.prompt_uid for g in groups for r in g) == sorted(r.prompt_uid for r in rows)
        assert layout == "padded" or sum(sizes) == sum(len(r.tokens) - 1 for r in rows)
    assert len(micro_batches(rows, LossConfig(), 10_000, layout)) == 1


def test_the_order_of_rows_does_not_matter(rows: list[TargetRow]) -> None:
    one, two = micro_batches(rows, LossConfig(), 30), micro_batches(rows[::-1], LossConfig(), 30)
    for a, b in zip(one, two, strict=True):
        assert torch.equal(a.texts.input_BS, b.texts.input_BS) and torch.equal(a.targets.labels_T, b.targets.labels_T)


def test_padding_is_masked_and_no_target(rows: list[TargetRow]) -> None:
    texts = collate(rows, LossConfig(), "padded").texts
    assert texts.mask_BS is not None
    lengths = sorted(len(r.tokens) - 1 for r in rows)
    assert sorted(texts.mask_BS.sum(-1).tolist()) == lengths
    assert (texts.input_BS[texts.mask_BS == 0] == 0).all()
    assert texts.mask_BS.flatten()[texts.positions_T].all()


def test_padding_names_no_id_outside_the_tail(
    make_header: MakeHeader, make_targets: MakeTargets, rows: list[TargetRow]
) -> None:
    """An id named with weight 0 would be taken out of the tail's mass, or be an outcome that the teacher never has."""
    shorter = replace(rows[1], num_kept=rows[1].num_kept.copy())
    if not len(shorter.tail) or shorter.num_kept[0] < 2:
        return
    dropped = int(shorter.num_kept[0]) - 1
    shorter.num_kept[0] = 1
    keep = np.r_[0, dropped + 1 : len(shorter.ids)]
    shorter = replace(shorter, ids=shorter.ids[keep], weights=shorter.weights[keep])
    targets = collate([shorter], LossConfig(divergence="reverse_kl")).targets
    assert targets.ids_TK is not None and targets.padding_TK is not None
    assert set(targets.ids_TK[0].tolist()) == {int(shorter.ids[0])}
    assert targets.padding_TK[0].sum() == dropped and not targets.padding_TK[1:].any()


def test_weights_by_entropy_and_confidence(make_header: MakeHeader, make_targets: MakeTargets) -> None:
    rng = np.random.default_rng(0)
    for scheme in ("systematic", "topk", "full"):
        header = (
            make_header(scheme=scheme, top_k=4, vocabulary=31)
            if scheme == "topk"
            else make_header(scheme=scheme, vocabulary=31)
        )
        rows = rows_of(make_targets(header, rng, ["a", "b"], [6, 9], [1, 3]), header)
        kinds = {"entropy": lambda r: np.minimum(r.entropy / 1.5, 1)}
        if scheme == "full":
            kinds["confidence"] = lambda r: 1 - np.exp(r.logprobs.astype(np.float64)).max(-1)
        if scheme == "topk":
            kinds["confidence"] = lambda r: 1 - r.weights.reshape(r.targets, -1).max(-1)
        for weighting, share in kinds.items():
            loss = LossConfig(kl=0.5, ce=2, weighting=weighting, entropy_scale=1.5)  # type: ignore[arg-type]
            ordered = [r for g in group_rows(rows, 1000, "packed") for r in g]
            targets = collate(ordered, loss).targets
            expected = np.concatenate([share(r) for r in ordered])
            assert targets.soft_T is not None
            np.testing.assert_allclose(targets.soft_T.numpy(), 0.5 * expected, rtol=1e-5)
            np.testing.assert_allclose(targets.hard_T.numpy(), 2 * (1 - expected), rtol=1e-5, atol=1e-6)


def test_without_its_square_the_temperature_weighs_nothing(rows: list[TargetRow]) -> None:
    temperature = rows[0].temperature
    with_square, without = (
        collate(rows, LossConfig(temperature_squared=squared)).targets.soft_T for squared in (True, False)
    )
    assert with_square is not None and without is not None
    assert torch.equal(with_square, without * temperature**2) and (without == 1).all()


def test_the_floor_of_the_loss_is_the_entropy_of_its_outcomes(
    make_header: MakeHeader, make_targets: MakeTargets
) -> None:
    rng = np.random.default_rng(0)
    header = make_header(scheme="topk", top_k=3)
    unit = make_targets(header, rng, ["a"], [5], [1])
    p_TK = rng.dirichlet(np.ones(4), 4)
    unit.counts = probability_codes(p_TK[:, :3], np.zeros((4, 3))).reshape(-1)
    unit.tail = probability_codes(p_TK[:, 3], np.zeros(4))
    expected = -(p_TK * np.log(p_TK)).sum()
    assert floor(rows_of(unit, header)) == pytest.approx(expected, rel=2e-3)
    unit.temperature = 3.0
    assert floor(rows_of(unit, header)) == pytest.approx(9 * expected, rel=2e-3)
    plain = make_targets(make_header(), rng, ["a", "b"])
    assert floor(rows_of(plain, make_header())) == pytest.approx(plain.entropy.astype(float).sum())
    assert collate(rows_of(unit, header), LossConfig(divergence="jsd")).floor == 0


def floor(rows: list[TargetRow]) -> float:
    return collate(rows, LossConfig()).floor


def test_a_batch_scaled_to_nothing_is_the_same_work_at_weight_0(rows: list[TargetRow]) -> None:
    batch = collate(rows, LossConfig(kl=1, ce=0.5))
    idle = batch.scaled(0.0)
    assert torch.equal(idle.texts.input_BS, batch.texts.input_BS) and idle.floor == 0
    assert idle.targets.soft_T is not None and (idle.targets.soft_T == 0).all() and (idle.targets.hard_T == 0).all()
    assert batch.targets.hard_T.sum() > 0


@pytest.mark.parametrize("workers", [1, 2, 3, 16])
def test_workers_have_about_as_much_to_do(rows: list[TargetRow], workers: int) -> None:
    """Each row is one worker's; no two differ by more than a text, and all workers come to the same."""
    found = shares(rows, workers)
    assert len(found) == workers
    assert sorted(id(row) for share in found for row in share) == sorted(map(id, rows))
    tokens = [sum(len(row.tokens) for row in share) for share in found]
    assert max(tokens) - min(tokens) <= max(len(row.tokens) for row in rows)
    for one, other in zip(found, shares(rows[::-1], workers), strict=True):
        assert sorted(map(id, one)) == sorted(map(id, other))
