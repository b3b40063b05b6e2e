"""Seconds by what hardware can do, by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cluster.config import EfficiencyConfig
from orchestrator.preflight.hours.roofline import (
    Gpu,
    Mixture,
    Ranks,
    Took,
    Trained,
    decode_step,
    prefill,
    scoring,
    training,
)

HALF = EfficiencyConfig(training=0.5, prefill=0.5, bandwidth=0.5, layer_ms=0)
GPU = Gpu(flops=1e12, bandwidth=1e9)
"""At half of it 5e11 FLOP/s and 5e8 bytes a second."""
FAST_MEMORY = Gpu(flops=1e12, bandwidth=1e18)
MIXTURE = Mixture(dense=1000, experts=8000, count=8, active=2, layers=4, cache_bytes=10, width=2)
STUDENT = Trained(
    body=1_000_000,
    head=200_000,
    trained=1_200_000,
    width=2,
    recomputed=0,
    adapters=False,
    teacher_head=0,
    workers=2,
    shares_state=True,
    batch_tokens=1000,
    micro_tokens=500,
)


def test_experts_that_a_step_touches() -> None:
    assert MIXTURE.touched(1) == pytest.approx(2000), "two of eight"
    assert MIXTURE.touched(2) == pytest.approx(8000 * (1 - 0.75**2)), "3.5 of eight on average"
    assert MIXTURE.touched(1000) == pytest.approx(8000)
    assert replace(MIXTURE, count=0, experts=0).touched(5) == 0


def test_prompts_are_read_at_two_flops_a_weight() -> None:
    # Each of two ranks: dense weights for half of 100 tokens, and half of the experts' work of all.
    own = 2 * (1000 * 50 + 2000 * 100 / 2)
    assert prefill(MIXTURE, Ranks(2, GPU), 100, HALF) == Took(pytest.approx(own / 5e11), "compute")
    shared = 2 * (1000 * 100 + 2000 * 100 / 2)
    assert prefill(MIXTURE, Ranks(2, GPU, share_texts=True), 100, HALF).seconds == pytest.approx(shared / 5e11)


def test_a_decoding_step_reads_weights_and_the_cache() -> None:
    # A rank reads its dense weights, half of what experts one text meets, and the cache of half a text.
    read = 2 * (1000 + 2000 / 2) + 0.5 * 30 * 10
    assert decode_step(MIXTURE, Ranks(2, GPU), 1, 30, HALF) == Took(pytest.approx(read / 5e8), "bandwidth")
    slow = replace(GPU, flops=1.0)
    flops = 2 * (1000 * 0.5 + 2000 / 2)
    assert decode_step(MIXTURE, Ranks(2, slow), 1, 30, HALF) == Took(pytest.approx(flops / 0.5), "compute")
    assert decode_step(MIXTURE, Ranks(2, GPU, layer_s=1.0), 1, 30, HALF) == Took(4.0, "launches")


def test_training_takes_six_flops_a_weight_and_token() -> None:
    flops = 6 * 1_000_000 * 20_000 + 6 * 200_000 * 10_000
    took = training(STUDENT, FAST_MEMORY, 10_000, 20_000, HALF)
    assert took.bound == "compute" and took.seconds == pytest.approx(flops / (2 * 5e11), rel=1e-6)


@pytest.mark.parametrize(
    ("change", "body", "head"),
    [
        ({"recomputed": 1}, 8, 6),
        ({"adapters": True}, 4, 4),
        ({"adapters": True, "recomputed": 1}, 6, 4),
        ({"teacher_head": 200_000}, 6, 8),
    ],
)
def test_what_changes_the_flops_of_training(change: dict[str, int], body: int, head: int) -> None:
    flops = body * 1_000_000 * 20_000 + head * 200_000 * 10_000
    took = training(replace(STUDENT, **change), FAST_MEMORY, 10_000, 20_000, HALF)
    assert took.seconds == pytest.approx(flops / (2 * 5e11), rel=1e-6)


def test_the_optimiser_moves_its_state_each_step() -> None:
    """Ten steps; of 20 passes of a worker each reads the weights twice and adds to gradients of four bytes."""
    fast = Gpu(flops=1e30, bandwidth=1e9)
    passes = 20 * (1_200_000 * 2 * 2 + 8 * 1_200_000)
    steps = 10 * 30 * 1_200_000
    both = training(STUDENT, fast, 10_000, 20_000, HALF)
    assert both == Took(pytest.approx((passes + steps / 2) / 5e8), "bandwidth")
    alone = training(replace(STUDENT, shares_state=False), fast, 10_000, 20_000, HALF)
    assert alone.seconds == pytest.approx((passes + 10 * 28 * 1_200_000) / 5e8)


def test_scoring_takes_two_flops_or_reads_the_weights_each_batch() -> None:
    assert scoring(1000, 2, 500, 100, FAST_MEMORY, HALF) == Took(pytest.approx(2 * 1000 * 500 / 5e11), "compute")
    assert scoring(1000, 2, 500, 100, GPU, HALF) == Took(pytest.approx(5 * 2000 / 5e8), "bandwidth")


@pytest.mark.parametrize("texts", [1, 7, 64, 1000])
def test_more_hardware_is_never_slower_and_more_tokens_are_never_faster(texts: int) -> None:
    def step(ranks: int, of: float = 1.0) -> float:
        return decode_step(MIXTURE, Ranks(ranks, GPU.part(of)), texts, 50, HALF).seconds

    assert step(4) <= step(2) <= step(1) and step(2, of=2) <= step(2)
    assert prefill(MIXTURE, Ranks(4, GPU), texts, HALF).seconds <= prefill(MIXTURE, Ranks(2, GPU), texts, HALF).seconds
    each = [training(replace(STUDENT, workers=n), GPU, texts * 1000, texts * 1500, HALF).seconds for n in (1, 2, 4)]
    assert each == sorted(each, reverse=True)
    more = [training(STUDENT, GPU, n * 1000, n * 1500, HALF).seconds for n in (texts, 2 * texts)]
    assert more == sorted(more)
    better = EfficiencyConfig(training=1, prefill=1, bandwidth=1, layer_ms=0)
    assert decode_step(MIXTURE, Ranks(2, GPU), texts, 50, better).seconds <= step(2)
