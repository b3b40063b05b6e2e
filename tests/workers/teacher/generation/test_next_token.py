"""Sampled tokens as statistics: frequencies that are those of the distribution, or of its nucleus."""

from __future__ import annotations

import math

import pytest
import torch

from workers.teacher.generation.next_token import next_token
from workers.teacher.sampling.blocked_probs import BlockedProbs

BELOW_ONE = math.nextafter(1.0, 0.0)


def uniforms(n: int, seed: int = 1) -> torch.Tensor:
    return torch.rand(n, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def chi_square(tokens: torch.Tensor, p_V: torch.Tensor) -> float:
    expected_V = p_V * len(tokens)
    seen_V = torch.bincount(tokens, minlength=len(p_V)).double()
    return float(((seen_V - expected_V) ** 2 / expected_V)[expected_V > 0].sum())


@pytest.mark.parametrize("temperature", [1.0, 0.7, 2.0])
def test_tokens_are_sampled_at_their_probabilities(temperature: float) -> None:
    V, R = 20, 50_000
    logp_V = (torch.randn(V, generator=torch.Generator().manual_seed(4)) * 1.2).log_softmax(-1)
    tokens = next_token(BlockedProbs(logp_V.expand(R, V)), uniforms(R), temperature, 1.0)
    p_V = (logp_V.double() / temperature).softmax(-1)
    assert (p_V * R).min() > 5
    assert chi_square(tokens, p_V) < 60  # 19 degrees of freedom: exceeded once in 250,000 trials


def test_temperature_0_takes_the_most_probable() -> None:
    logp_BV = torch.randn(30, 17, generator=torch.Generator().manual_seed(5)).log_softmax(-1)
    assert torch.equal(next_token(BlockedProbs(logp_BV), uniforms(30), 0.0, 1.0), logp_BV.argmax(-1))


@pytest.mark.parametrize("top_p", [0.05, 0.5, 0.9])
def test_top_p_samples_the_nucleus_and_nothing_else(top_p: float) -> None:
    V, R = 20, 20_000
    logp_V = (torch.randn(V, generator=torch.Generator().manual_seed(6)) * 2).log_softmax(-1)
    p_V = logp_V.double().exp()
    nucleus: list[int] = []
    for i in sorted(range(V), key=lambda i: -float(p_V[i])):
        nucleus.append(i)
        if float(p_V[nucleus].sum()) >= top_p:
            break
    tokens = next_token(BlockedProbs(logp_V.expand(R, V)), uniforms(R), 1.0, top_p)
    assert set(tokens.tolist()) == set(nucleus)
    inside_V = torch.zeros(V, dtype=torch.float64)
    inside_V[nucleus] = p_V[nucleus] / p_V[nucleus].sum()
    assert chi_square(tokens, inside_V) < 60


def test_an_impossible_token_is_never_sampled() -> None:
    logp_V = torch.tensor([-math.inf, 0.0, 0.0, -math.inf]).log_softmax(-1)
    offset_B = torch.cat([torch.tensor([0.0, BELOW_ONE], dtype=torch.float64), uniforms(1000)])
    for top_p in (1.0, 0.7):
        assert set(next_token(BlockedProbs(logp_V.expand(len(offset_B), 4)), offset_B, 1.0, top_p).tolist()) <= {1, 2}
