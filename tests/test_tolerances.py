"""Tolerances and comparisons of tests: rounding passes, the smallest real fault does not. Without a model.

Legend: T positions, V vocabulary, N draws.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from support.comparing.borders import (
    at_positions,
    draw_offsets,
    may_choose,
    probabilities,
    same_codes,
    same_draws,
    same_head,
    same_on_grid,
    same_texts,
)
from support.comparing.tolerances import of_capture, of_chain, of_logits, of_sums

from workers.targets.encoding.arrays import UnitTargets
from workers.targets.encoding.scalars import GRIDS, probability_codes
from workers.teacher.engine import CaptureSpec, TextRequest
from workers.teacher.generation.choice import TokenChoice
from workers.teacher.sampling.capture import CaptureBuffer

T, V, N, ALWAYS = 400, 60, 21, (4, 17)
FULL = CaptureSpec("full", N, "answer", "float32", V, 11)
SYSTEMATIC = CaptureSpec("systematic", N, "answer", "float32", V, 11, redraws=2, always=ALWAYS)
OFF = 1e-3
"""A tolerance of log-probabilities, and noise that is just within it."""


def logits(seed: int = 0) -> torch.Tensor:
    return 3 * torch.randn(T, V, generator=torch.Generator().manual_seed(seed))


def noisy(size: float = 0.4 * OFF) -> torch.Tensor:
    """The logits as another machine may find them: log-probabilities move by twice as much at most."""
    return logits() + size * (2 * torch.rand(T, V, generator=torch.Generator().manual_seed(9)) - 1)


def captured(z_TV: torch.Tensor, spec: CaptureSpec) -> UnitTargets:
    """One text of T targets with these distributions."""
    tokens = [3 + i % (V - 3) for i in range(T)]
    buffer = CaptureBuffer([TextRequest("p", 0, [0], tokens)], spec)
    buffer.add(np.zeros(T, np.int64), np.arange(1, T + 1), z_TV, torch.tensor(tokens))
    unit = buffer.finish([[0, *tokens]], [1])
    unit.texts, unit.ends = ["x"], np.zeros(T + 1, np.uint32)
    return unit


# Tolerances -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("terms", [16, 300, 4000])
def test_two_orders_of_a_sum_are_within_its_bounds(terms: int) -> None:
    """Forwards, backwards, in pairs and by torch."""
    x = torch.randn(50, terms, generator=torch.Generator().manual_seed(terms))
    pairs = x.clone()
    while pairs.shape[1] > 1:
        odd = pairs[:, :0] if pairs.shape[1] % 2 == 0 else pairs[:, -1:]
        pairs = torch.cat([pairs[:, 0 : pairs.shape[1] - 1 : 2] + pairs[:, 1::2], odd], 1)
    sums = [x.cumsum(1)[:, -1], x.flip(1).cumsum(1)[:, -1], pairs[:, 0], x.sum(1)]
    size = x.abs().sum(1)
    found = max(float(((a - b).abs() / size).max()) for a in sums for b in sums)
    assert 0 < found < of_sums(terms) / 10 and found < of_chain(1, terms) / 4
    assert of_chain(1, terms) < of_sums(terms) or terms < 100


def test_tolerances_are_far_below_what_a_fault_does() -> None:
    """Of the models in model_families.py, whose log-probabilities reach to -14 and differ by about 1 between texts."""
    assert 14 * 2**-24 < of_capture(14) < of_logits(14) < 1e-3


# Borders ----------------------------------------------------------------------------------------------------


def test_draws_of_two_machines_are_the_same_but_at_borders() -> None:
    one, two = captured(logits(), SYSTEMATIC), captured(noisy(), SYSTEMATIC)
    p_TV = probabilities(captured(logits(), FULL), V)
    for unit in (one, two):
        same_codes(unit.always.reshape(-1, len(ALWAYS)), p_TV[:, ALWAYS], OFF)
    p_TV[:, ALWAYS] = 0
    request = [TextRequest("p", 0, [0], one.tokens[1:].tolist())]
    offsets_TR = draw_offsets(request, one, SYSTEMATIC)
    shares = []
    for number, (a, b) in enumerate(zip(one.draws, two.draws, strict=True)):
        shares.append(same_draws(a, b, p_TV, offsets_TR[:, number], N, OFF))
        half = np.arange(T) % 2 == 0
        same_draws(at_positions(a, half), at_positions(b, half), p_TV[half], offsets_TR[half, number], N, OFF)
        with pytest.raises(AssertionError, match="far from the border"):
            same_draws(a, b, p_TV, offsets_TR[:, 1 - number], N, OFF)  # what was drawn by other numbers
    assert 0.8 < min(shares) < 1, "the noise is felt"


@pytest.mark.parametrize("fault", ["an id left out", "the position before", "another temperature", "ids one on"])
def test_draws_of_a_fault_are_not_the_same(fault: str) -> None:
    spec = dataclasses.replace(SYSTEMATIC, always=())
    wrong = {
        "an id left out": logits().index_fill(1, torch.tensor([7]), -torch.inf),
        "the position before": logits().roll(1, 0),
        "another temperature": logits() / 1.02,
        "ids one on": logits().roll(1, 1),
    }[fault]
    one, two = captured(logits(), spec), captured(wrong, spec)
    p_TV = probabilities(captured(logits(), FULL), V)
    offset_T = draw_offsets([TextRequest("p", 0, [0], one.tokens[1:].tolist())], one, spec)[:, 0]
    with pytest.raises(AssertionError):
        same_draws(one.draws[0], two.draws[0], p_TV, offset_T, N, OFF)


def test_heads_are_the_most_probable_ids_but_for_ties() -> None:
    spec, k = dataclasses.replace(FULL, scheme="topk", top_k=5), 5
    z_TV = logits()
    z_TV[0, z_TV[0].topk(6).indices[5]] = z_TV[0].topk(5).values[4]  # two may be the fifth
    p_TV = probabilities(captured(z_TV, FULL), V)
    unit = captured(z_TV + noisy() - logits(), spec)
    same_head(unit.draws[0], unit.tail, p_TV, k, OFF)
    for wrong in (logits().roll(1, 0), logits() / 1.02):
        unit = captured(wrong, spec)
        with pytest.raises(AssertionError):
            same_head(unit.draws[0], unit.tail, p_TV, k, OFF)


def answered(z_SV: torch.Tensor, requests: list[TextRequest]) -> UnitTargets:
    """Answers by random numbers, each token from the distribution of its position whatever is before it."""
    buffer, choice = CaptureBuffer(requests, FULL), TokenChoice(requests, FULL, set())
    texts = [list(r.prompt_token_ids) for r in requests]
    for step in range(requests[0].max_new_tokens):
        rows, z_nV = np.arange(len(texts)), z_SV[step :: requests[0].max_new_tokens][: len(texts)]
        positions, probs = np.array([len(t) for t in texts]), buffer.probs(z_nV)
        tokens = choice(rows, positions, z_nV, probs)
        buffer.add_probs(rows, positions, probs, tokens)
        for text, token in zip(texts, tokens.tolist(), strict=True):
            text.append(token)
    unit = buffer.finish(texts, [len(r.prompt_token_ids) for r in requests])
    unit.texts, unit.ends = [str(t) for t in texts], np.zeros(int(unit.lengths.sum()), np.uint32)
    return unit


@pytest.mark.parametrize("settings", [{}, {"temperature": 0.0}, {"temperature": 0.7}, {"top_p": 0.8}], ids=str)
def test_texts_of_two_machines_are_the_same_but_at_borders(settings: dict[str, float]) -> None:
    requests = [TextRequest(f"p{i}", 0, [5, 6], None, max_new_tokens=8, **settings) for i in range(T // 8)]
    other, mine = answered(logits(), requests), answered(noisy(), requests)
    seen, seen_other = same_texts(mine, other, requests, FULL, OFF)
    assert seen.shape == seen_other.shape == (T,) and seen.mean() > 0.9
    # A token that nothing explains: the least probable one.
    wrong = dataclasses.replace(mine, tokens=mine.tokens.copy())
    wrong.tokens[9] = other.logprobs.reshape(-1, V)[7].argmin()
    with pytest.raises(AssertionError, match="p0"):
        same_texts(wrong, other, requests, FULL, OFF)
    # The same token one position late.
    with pytest.raises(AssertionError):
        same_texts(answered(logits().roll(1, 0), requests), other, requests, FULL, OFF)


def test_a_token_may_be_chosen_near_the_border_of_its_share_only() -> None:
    p_V = np.array([0.5, 0.0, 0.3, 0.2])
    request = TextRequest("p", 0, [0], None, max_new_tokens=1)
    for number, tokens in ((0.2, {0}), (0.4999, {0, 2}), (0.5001, {0, 2}), (0.81, {3}), (0.9999, {3})):
        assert {i for i in range(4) if may_choose(p_V, i, number, request, OFF)} == tokens, number
    nucleus = dataclasses.replace(request, top_p=0.7)
    assert not may_choose(p_V, 3, 0.99, nucleus, OFF) and may_choose(p_V, 2, 0.99, nucleus, OFF)
    at_border = dataclasses.replace(request, top_p=0.8)  # the third may be in it or not
    assert may_choose(p_V, 3, 0.99, at_border, OFF) and may_choose(p_V, 2, 0.99, at_border, OFF)


def test_scalars_may_be_the_next_step_of_the_grid_now_and_then() -> None:
    grid = GRIDS["token_logprob"]
    values = grid[np.arange(100)]
    same_on_grid(values, grid[np.arange(100) + (np.arange(100) == 50)], "token_logprob")
    for wrong in (grid[np.arange(100) + 1], grid[np.arange(100) + 2 * (np.arange(100) == 50)], values + 1e-3):
        with pytest.raises(AssertionError):
            same_on_grid(values, wrong, "token_logprob")


def test_codes_are_those_of_a_probability_or_the_next() -> None:
    p = np.linspace(0.001, 0.999, 200)
    for uniform in (0.0, 0.999):
        same_codes(probability_codes(p, np.full(200, uniform)), p, 1e-9)
    with pytest.raises(AssertionError):
        same_codes(probability_codes(p * 1.002, np.full(200, 0.5)), p, 1e-9)
