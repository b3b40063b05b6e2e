"""Sparse targets and sampled tokens as statistics: exact counts, and means that equal the distribution."""

from __future__ import annotations

import math

import pytest
import torch

from workers.student.fused import fused_cross_entropy
from workers.teacher.sampling import SparseTargets, entropy, sample_token, systematic

Z_LIMIT = 4.5
BELOW_ONE = math.nextafter(1.0, 0.0)


def rows_of(kept: SparseTargets) -> list[tuple[list[int], list[int]]]:
    """(ids, counts) of each distribution."""
    sizes = kept.entries_B.tolist()
    return list(
        zip(
            [i.tolist() for i in kept.ids_E.split(sizes)], [c.tolist() for c in kept.counts_E.split(sizes)], strict=True
        )
    )


def dense(kept: SparseTargets, vocabulary: int) -> torch.Tensor:
    """Counts of each distribution [B, V]."""
    B = len(kept.entries_B)
    counts_BV = torch.zeros(B, vocabulary, dtype=torch.float64)
    row_E = torch.arange(B).repeat_interleave(kept.entries_B)
    counts_BV[row_E, kept.ids_E] = kept.counts_E.double()
    return counts_BV


def skewed(vocabulary: int, seed: int = 0) -> torch.Tensor:
    """A distribution whose ids have masses from about a half to below 1e-7, in no order."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.linspace(0, -17, vocabulary, dtype=torch.float64)
    return logits[torch.randperm(vocabulary, generator=generator)].softmax(-1)


def uniforms(n: int, seed: int = 1) -> torch.Tensor:
    return torch.rand(n, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


# Systematic sampling ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("draws", [1, 7, 21, 64])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_counts_are_floor_or_ceil_and_sum_to_the_draws(draws: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(2)
    p_BV = (torch.randn(64, 97, generator=generator) * 3).to(dtype).softmax(-1)
    kept = systematic(p_BV, draws, uniforms(64))
    counts_BV, share_BV = dense(kept, 97), p_BV.double() / p_BV.double().sum(-1, keepdim=True) * draws
    assert (counts_BV >= (share_BV - 1e-9).floor()).all()
    assert (counts_BV <= (share_BV + 1e-9).ceil()).all()
    assert (counts_BV.sum(-1) == draws).all()
    for ids, counts in rows_of(kept):
        assert ids == sorted(set(ids)) and min(counts) >= 1


def test_every_id_is_kept_in_proportion() -> None:
    """20,000 draws: count_i is floor(N p) plus a coin of probability frac(N p), which gives the variance."""
    V, R, draws = 50, 20_000, 21
    p_V = skewed(V)
    counts_RV = dense(systematic(p_V.expand(R, V), draws, uniforms(R)), V)
    fraction_V = (draws * p_V) % 1
    error_V = (fraction_V * (1 - fraction_V) / R).sqrt()
    z_V = (counts_RV.mean(0) - draws * p_V) / error_V
    assert z_V.abs().max() < Z_LIMIT
    variance_V = counts_RV.var(0)
    assert torch.allclose(variance_V, fraction_V * (1 - fraction_V), atol=0.01)


def test_mass_below_1e_7_at_the_end_of_a_large_vocabulary_is_kept_in_proportion() -> None:
    """Offsets on a fine grid over the part of [0, 1) that reaches the tail: each id is met N p / spacing times."""
    V, draws, tail, tiny, met = 50_000, 21, 1000, 5e-8, 4
    p_V = torch.full((V,), (1 - tail * tiny) / (V - tail), dtype=torch.float32)
    p_V[-tail:] = tiny
    R, reach = tail * met, draws * tail * tiny / float(p_V.double().sum())
    offset_R = 1 - reach * (torch.arange(R, dtype=torch.float64) + 0.5) / R
    hits_V = torch.zeros(V, dtype=torch.float64)
    for chunk_R in offset_R.split(200):
        kept = systematic(p_V.expand(len(chunk_R), V), draws, chunk_R)
        hits_V.scatter_add_(0, kept.ids_E, kept.counts_E.double())
    assert (hits_V[-tail:] - met).abs().max() <= 1
    assert abs(hits_V[-tail:].sum().item() - R) <= 2


@pytest.mark.parametrize("zeros", [range(0, 5), range(10, 15), range(25, 30)], ids=["first", "middle", "last"])
def test_an_id_of_probability_0_is_never_kept(zeros: range) -> None:
    p_V = skewed(30)
    p_V[list(zeros)] = 0
    p_V /= p_V.sum()
    offset_B = torch.cat([torch.tensor([0.0, 1e-300, 0.5, 1 - 1e-9], dtype=torch.float64), uniforms(2000)])
    kept = systematic(p_V.expand(len(offset_B), 30), 21, offset_B)
    assert not set(kept.ids_E.tolist()) & set(zeros)


def test_the_largest_offset_below_one_keeps_no_impossible_id() -> None:
    p_V = torch.tensor([0.5, 0.5, 0.0], dtype=torch.float64)
    kept = systematic(p_V[None], 21, torch.tensor([BELOW_ONE], dtype=torch.float64))
    assert kept.ids_E.tolist() == [0, 1]


def test_one_certain_id_takes_all_draws() -> None:
    p_V = torch.zeros(11)
    p_V[4] = 1
    assert rows_of(systematic(p_V[None], 21, torch.tensor([0.3]))) == [([4], [21])]


def test_a_distribution_is_sampled_alike_in_any_batch() -> None:
    p_BV, offset_B = torch.stack([skewed(40, seed) for seed in range(8)]), uniforms(8)
    together = rows_of(systematic(p_BV, 21, offset_B))
    alone = [rows_of(systematic(p_BV[b : b + 1], 21, offset_B[b : b + 1]))[0] for b in range(8)]
    assert together == alone


def test_mass_that_does_not_sum_to_one_is_taken_relative_to_its_sum() -> None:
    p_BV, offset_B = torch.stack([skewed(40, seed) for seed in range(8)]), uniforms(8)
    assert rows_of(systematic(p_BV * 0.25, 21, offset_B)) == rows_of(systematic(p_BV, 21, offset_B))


def head_gradients(weights_RTV: torch.Tensor, h_TD: torch.Tensor, W_VD: torch.Tensor) -> torch.Tensor:
    """Gradient of the student's head under each of R samples of the targets [R, V, D]."""
    V, gradients = len(W_VD), []
    for w_TV in weights_RTV:
        W = W_VD.clone().requires_grad_()
        fused_cross_entropy(h_TD, W, None, torch.arange(V).expand(len(h_TD), V), w_TV).backward()
        gradients.append(W.grad)
    return torch.stack([g for g in gradients if g is not None]).double()


def test_the_gradient_of_a_head_is_unbiased_and_that_of_naive_top_k_is_not() -> None:
    T, V, D, R, draws, k = 4, 50, 6, 2000, 12, 10
    generator = torch.Generator().manual_seed(3)
    p_TV = torch.stack([skewed(V, seed).pow(0.2) for seed in range(T)])
    p_TV /= p_TV.sum(-1, keepdim=True)
    h_TD, W_VD = torch.randn(T, D, generator=generator), torch.randn(V, D, generator=generator)
    exact_VD = head_gradients(p_TV.float()[None], h_TD, W_VD)[0]
    counts = dense(systematic(p_TV.repeat(R, 1), draws, uniforms(R * T)), V)
    sampled_RVD = head_gradients((counts / draws).float().view(R, T, V), h_TD, W_VD)
    error_VD = sampled_RVD.std(0) / math.sqrt(R)

    def largest_z(mean_VD: torch.Tensor) -> float:
        return float(((mean_VD - exact_VD).abs() / error_VD).max())

    assert largest_z(sampled_RVD.mean(0)) < Z_LIMIT
    top = p_TV.topk(k, -1)
    naive_TV = torch.zeros_like(p_TV).scatter(1, top.indices, top.values / top.values.sum(-1, keepdim=True))
    assert largest_z(head_gradients(naive_TV.float()[None], h_TD, W_VD)[0]) > 2 * Z_LIMIT


# Sampled tokens ---------------------------------------------------------------------------------------------


def chi_square(tokens: torch.Tensor, p_V: torch.Tensor) -> float:
    expected_V = p_V * len(tokens)
    seen_V = torch.bincount(tokens, minlength=len(p_V)).double()
    return float(((seen_V - expected_V) ** 2 / expected_V)[expected_V > 0].sum())


@pytest.mark.parametrize("temperature", [1.0, 0.7, 2.0])
def test_tokens_are_sampled_at_their_probabilities(temperature: float) -> None:
    V, R = 20, 50_000
    logp_V = (torch.randn(V, generator=torch.Generator().manual_seed(4)) * 1.2).log_softmax(-1)
    tokens = sample_token(logp_V.expand(R, V), uniforms(R), temperature, 1.0)
    p_V = (logp_V.double() / temperature).softmax(-1)
    assert (p_V * R).min() > 5
    assert chi_square(tokens, p_V) < 60  # 19 degrees of freedom: exceeded once in 250,000 trials


def test_temperature_0_takes_the_most_probable() -> None:
    logp_BV = torch.randn(30, 17, generator=torch.Generator().manual_seed(5)).log_softmax(-1)
    assert torch.equal(sample_token(logp_BV, uniforms(30), 0.0, 1.0), logp_BV.argmax(-1))


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
    tokens = sample_token(logp_V.expand(R, V), uniforms(R), 1.0, top_p)
    assert set(tokens.tolist()) == set(nucleus)
    inside_V = torch.zeros(V, dtype=torch.float64)
    inside_V[nucleus] = p_V[nucleus] / p_V[nucleus].sum()
    assert chi_square(tokens, inside_V) < 60


def test_an_impossible_token_is_never_sampled() -> None:
    logp_V = torch.tensor([-math.inf, 0.0, 0.0, -math.inf]).log_softmax(-1)
    offset_B = torch.cat([torch.tensor([0.0, BELOW_ONE], dtype=torch.float64), uniforms(1000)])
    for top_p in (1.0, 0.7):
        assert set(sample_token(logp_V.expand(len(offset_B), 4), offset_B, 1.0, top_p).tolist()) <= {1, 2}


# Entropy ----------------------------------------------------------------------------------------------------


def test_entropy_in_closed_form() -> None:
    p_BV = torch.tensor([[0.25, 0.25, 0.25, 0.25], [0.5, 0.25, 0.25, 0.0], [0.0, 1.0, 0.0, 0.0]])
    expected = torch.tensor([math.log(4), 1.5 * math.log(2), 0.0])
    assert torch.allclose(entropy(p_BV.log()), expected, atol=1e-6)
