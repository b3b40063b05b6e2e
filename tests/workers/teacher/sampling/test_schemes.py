"""Sparse targets as statistics: exact counts, and means that equal the distribution."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from support.comparing.borders import same_draws
from support.comparing.tolerances import of_capture

from workers.student.losses.fused import HeadTargets, fused_loss
from workers.targets.encoding.arrays import Draw
from workers.targets.encoding.schema import EXACT_STEPS
from workers.teacher.sampling.blocked_probs import BlockedProbs
from workers.teacher.sampling.drawing import as_draw
from workers.teacher.sampling.schemes import SparseTargets, multinomial, systematic, take_head, threshold, top_k

Z_LIMIT = 4.5
BELOW_ONE = math.nextafter(1.0, 0.0)
SCHEMES = ["systematic", "threshold", "multinomial"]


def drawn(kept: SparseTargets, vocabulary: int) -> Draw:
    """As it is stored."""
    counts_BE = kept.counts_BE.numpy() if kept.counts_BE is not None else None
    return as_draw(kept.ids_BE.numpy(), counts_BE, vocabulary=vocabulary)


def rows_of(kept: SparseTargets, vocabulary: int) -> list[tuple[list[int], list[int]]]:
    """(ids, counts) of each distribution."""
    draw = drawn(kept, vocabulary)
    ends = np.cumsum(draw.num_kept)[:-1]
    split = zip(np.split(draw.ids, ends), np.split(draw.counts, ends), strict=True)
    return [(ids.tolist(), counts.tolist()) for ids, counts in split]


def of(p_BV: torch.Tensor) -> BlockedProbs:
    return BlockedProbs(p_BV.log())


def off_by(p_BV: torch.Tensor) -> float:
    """What rounding leaves of these probabilities, relative to each: masses are float32."""
    return of_capture(p_BV.log().abs().max())


def dense(kept: SparseTargets, vocabulary: int) -> torch.Tensor:
    """Counts of each distribution [B, V]."""
    draw = drawn(kept, vocabulary)
    B = len(draw.num_kept)
    counts_BV = np.zeros((B, vocabulary))
    counts_BV[np.arange(B).repeat(draw.num_kept), draw.ids] = draw.counts
    return torch.from_numpy(counts_BV)


def skewed(vocabulary: int, seed: int = 0) -> torch.Tensor:
    """A distribution whose ids have probs from about a half to below 1e-7, in no order."""
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
    kept = systematic(of(p_BV), draws, uniforms(64))
    counts_BV, share_BV = dense(kept, 97), p_BV.double() / p_BV.double().sum(-1, keepdim=True) * draws
    off = draws * off_by(p_BV)
    assert (counts_BV >= (share_BV - off).floor()).all()
    assert (counts_BV <= (share_BV + off).ceil()).all()
    assert (counts_BV.sum(-1) == draws).all()
    for ids, counts in rows_of(kept, 97):
        assert ids == sorted(set(ids)) and min(counts) >= 1


def draw(scheme: str, probs: BlockedProbs, draws: int, seed: int = 1) -> tuple[SparseTargets, float]:
    """A sample of each distribution, and the mass of one count."""
    R = len(probs.total_B)
    if scheme == "multinomial":
        return multinomial(probs, uniforms(R * draws, seed).view(R, draws)), 1 / draws
    if scheme == "threshold":
        kept = threshold(probs, take_head(probs, draws), draws, uniforms(R, seed), uniforms(R, seed + 99))
        return kept, 1 / (draws * EXACT_STEPS)
    return systematic(probs, draws, uniforms(R, seed)), 1 / draws


def variance(scheme: str, p_V: torch.Tensor, draws: int) -> torch.Tensor:
    """Of each id's weight, in theory (see sampling.py)."""
    if scheme == "multinomial":
        return p_V * (1 - p_V) / draws
    if scheme == "systematic":
        fraction_V = (draws * p_V) % 1
        return fraction_V * (1 - fraction_V) / draws**2
    steps = draws * EXACT_STEPS
    fraction_V = (steps * p_V) % 1
    return torch.where(p_V >= 1 / draws, fraction_V * (1 - fraction_V) / steps**2, p_V * (1 / draws - p_V))


def expected_often(p_V: torch.Tensor, draws: int) -> torch.Tensor:
    """Ids drawn five times and more on average: below that a mean is not normal. The tail has a test of its own."""
    return p_V * draws >= 5


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_id_weighs_its_probability(scheme: str) -> None:
    """20,000 draws: no id's mean is off, and the noise is what the theory says."""
    V, R, draws = 50, 20_000, 21
    p_V = skewed(V)
    kept, unit = draw(scheme, of(p_V.expand(R, V)), draws)
    weights_RV = dense(kept, V) * unit
    variance_V = variance(scheme, p_V, draws)
    z_V = (weights_RV.mean(0) - p_V) / (variance_V / R).sqrt()
    assert z_V[expected_often(p_V, R * draws)].abs().max() < Z_LIMIT
    assert torch.allclose(weights_RV.var(0), variance_V, rtol=0.06, atol=2e-5)
    naive_V = torch.zeros(V, dtype=torch.float64).scatter(0, p_V.topk(12).indices, p_V.topk(12).values)
    assert ((naive_V / naive_V.sum() - p_V) / (variance_V / R).sqrt()).abs().max() > 2 * Z_LIMIT


@pytest.mark.parametrize("scheme", SCHEMES)
def test_ids_taken_out_are_exact_and_the_others_unbiased(scheme: str) -> None:
    V, R, draws, always = 50, 20_000, 21, torch.tensor([3, 20, 41])
    p_V = skewed(V)
    probs = of(p_V.expand(R, V))
    taken_RA = probs.take_out(always)
    assert torch.allclose(taken_RA, p_V[always].expand(R, 3), rtol=1e-5)
    kept, unit = draw(scheme, probs, draws)
    weights_RV = dense(kept, V) * unit
    assert (weights_RV[:, always] == 0).all()
    rest_V = p_V.index_fill(0, always, 0)
    if scheme != "threshold":  # whose weights are of the whole; the others' are of what is left
        rest_V /= rest_V.sum()
    # BlockedProbs are float32: where a share of the head is nearly whole, that is all the noise there is.
    error_V = (variance(scheme, rest_V, draws) / R + (1e-6 * rest_V) ** 2).sqrt()
    z_V = (weights_RV.mean(0) - rest_V) / error_V
    assert z_V[expected_often(rest_V, R * draws)].abs().max() < Z_LIMIT


def test_threshold_keeps_the_head_exactly_and_the_tail_at_one_weight() -> None:
    draws, steps = 14, 14 * EXACT_STEPS
    p_BV = torch.stack([skewed(60, seed).pow(0.5) for seed in range(40)])
    p_BV /= p_BV.sum(-1, keepdim=True)
    probs = of(p_BV)
    counts_BV = dense(threshold(probs, take_head(probs, draws), draws, uniforms(40), uniforms(40, 2)), 60)
    head_BV = p_BV >= 1 / draws
    assert ((counts_BV - p_BV * steps).abs()[head_BV] < 1 + steps * off_by(p_BV)).all()
    assert set(counts_BV[~head_BV].tolist()) == {0, EXACT_STEPS}


def test_top_k_tells_the_tail_from_nothing() -> None:
    """A head that is nearly all leaves a tail that 1 minus its sum could not tell."""
    p_V = torch.cat([torch.tensor([0.7, 0.3 - 3e-9], dtype=torch.float64), torch.full((30,), 1e-10).double()])
    kept = top_k(of(p_V[None]), 2)
    assert kept.ids_BK.tolist() == [[0, 1]]
    assert torch.allclose(kept.probability_BK[0], p_V[:2], atol=1e-6)
    assert kept.tail_B[0].item() == pytest.approx(3e-9, rel=1e-4)


def test_the_marginal_is_the_sum_of_the_distributions() -> None:
    p_BV = torch.stack([skewed(300, seed) for seed in range(9)])
    assert torch.allclose(of(p_BV).marginal().double(), p_BV.sum(0), rtol=1e-5)


def test_mass_below_1e_7_at_the_end_of_a_large_vocabulary_is_kept_in_proportion() -> None:
    """Offsets on a fine grid over the part of [0, 1) that reaches the tail: each id is met N p / spacing times."""
    V, draws, tail, tiny, met = 50_000, 21, 1000, 5e-8, 4
    p_V = torch.full((V,), (1 - tail * tiny) / (V - tail), dtype=torch.float32)
    p_V[-tail:] = tiny
    R, reach = tail * met, draws * tail * tiny / float(p_V.double().sum())
    offset_R = 1 - reach * (torch.arange(R, dtype=torch.float64) + 0.5) / R
    hits_V = torch.zeros(V, dtype=torch.float64)
    for chunk_R in offset_R.split(200):
        kept = systematic(of(p_V.expand(len(chunk_R), V)), draws, chunk_R)
        hits_V += dense(kept, V).sum(0)
    assert (hits_V[-tail:] - met).abs().max() <= 1
    assert abs(hits_V[-tail:].sum().item() - R) <= 2


@pytest.mark.parametrize("zeros", [range(0, 5), range(10, 15), range(25, 30)], ids=["first", "middle", "last"])
def test_an_id_of_probability_0_is_never_kept(zeros: range) -> None:
    p_V = skewed(30)
    p_V[list(zeros)] = 0
    p_V /= p_V.sum()
    offset_B = torch.cat([torch.tensor([0.0, 1e-300, 0.5, 1 - 1e-9], dtype=torch.float64), uniforms(2000)])
    kept = systematic(of(p_V.expand(len(offset_B), 30)), 21, offset_B)
    assert not set(kept.ids_BE.flatten().tolist()) & set(zeros)


def test_the_largest_offset_below_one_keeps_no_impossible_id() -> None:
    p_V = torch.tensor([0.5, 0.5, 0.0], dtype=torch.float64)
    kept = systematic(of(p_V[None]), 21, torch.tensor([BELOW_ONE], dtype=torch.float64))
    assert drawn(kept, 3).ids.tolist() == [0, 1]


def test_one_certain_id_takes_all_draws() -> None:
    p_V = torch.zeros(11)
    p_V[4] = 1
    assert rows_of(systematic(of(p_V[None]), 21, torch.tensor([0.3])), 11) == [([4], [21])]


def test_a_distribution_is_sampled_alike_in_any_batch() -> None:
    p_BV, offset_B = torch.stack([skewed(40, seed) for seed in range(8)]), uniforms(8)
    together = drawn(systematic(of(p_BV), 21, offset_B), 40)
    alone = Draw.join([drawn(systematic(of(p_BV[b : b + 1]), 21, offset_B[b : b + 1]), 40) for b in range(8)])
    same_draws(together, alone, p_BV.numpy(), offset_B.numpy(), 21, off_by(p_BV))


def test_mass_that_does_not_sum_to_one_is_taken_relative_to_its_sum() -> None:
    p_BV, offset_B = torch.stack([skewed(40, seed) for seed in range(8)]), uniforms(8)
    quarter, whole = (drawn(systematic(of(p), 21, offset_B), 40) for p in (p_BV * 0.25, p_BV))
    same_draws(quarter, whole, p_BV.numpy(), offset_B.numpy(), 21, off_by(p_BV))


def head_gradients(weights_RTV: torch.Tensor, h_TD: torch.Tensor, W_VD: torch.Tensor) -> torch.Tensor:
    """Gradient of the student's head under each of R samples of the targets [R, V, D]."""
    V, gradients = len(W_VD), []
    for w_TV in weights_RTV:
        W = W_VD.clone().requires_grad_()
        none_T, ids_TV = torch.zeros(len(h_TD)), torch.arange(V).expand(len(h_TD), V)
        fused_loss(h_TD, W, None, HeadTargets(none_T.long(), none_T, none_T + 1, ids_TV, w_TV)).backward()
        gradients.append(W.grad)
    return torch.stack([g for g in gradients if g is not None]).double()


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_gradient_of_a_head_is_unbiased_and_that_of_naive_top_k_is_not(scheme: str) -> None:
    T, V, D, R, draws, k = 4, 50, 6, 2000, 12, 10
    generator = torch.Generator().manual_seed(3)
    p_TV = torch.stack([skewed(V, seed).pow(0.2) for seed in range(T)])
    p_TV /= p_TV.sum(-1, keepdim=True)
    h_TD, W_VD = torch.randn(T, D, generator=generator), torch.randn(V, D, generator=generator)
    exact_VD = head_gradients(p_TV.float()[None], h_TD, W_VD)[0]
    kept, unit = draw(scheme, of(p_TV.repeat(R, 1)), draws)
    sampled_RVD = head_gradients((dense(kept, V) * unit).float().view(R, T, V), h_TD, W_VD)
    error_VD = sampled_RVD.std(0) / math.sqrt(R)

    def largest_z(mean_VD: torch.Tensor) -> float:
        return float(((mean_VD - exact_VD).abs() / error_VD).max())

    assert largest_z(sampled_RVD.mean(0)) < Z_LIMIT
    top = p_TV.topk(k, -1)
    naive_TV = torch.zeros_like(p_TV).scatter(1, top.indices, top.values / top.values.sum(-1, keepdim=True))
    assert largest_z(head_gradients(naive_TV.float()[None], h_TD, W_VD)[0]) > 2 * Z_LIMIT


# Entropy ----------------------------------------------------------------------------------------------------


def test_entropy_in_closed_form() -> None:
    p_BV = torch.tensor([[0.25, 0.25, 0.25, 0.25], [0.5, 0.25, 0.25, 0.0], [0.0, 1.0, 0.0, 0.0]])
    expected = torch.tensor([math.log(4), 1.5 * math.log(2), 0.0]).double()
    assert torch.allclose(of(p_BV).entropy(), expected, atol=1e-6)


@pytest.mark.parametrize("temperature", [1.0, 2.0, 0.5])
def test_log_probabilities_at_a_temperature(temperature: float) -> None:
    logits_BV = torch.randn(7, 300, generator=torch.Generator().manual_seed(8)) * 4
    expected_BV = (logits_BV.double() / temperature).log_softmax(-1)
    probs, ids_B = BlockedProbs(logits_BV, temperature), torch.arange(7) * 40
    tolerance = of_capture(expected_BV.abs().max())
    assert torch.allclose(probs.log_probabilities().double(), expected_BV, rtol=0, atol=tolerance)
    assert torch.allclose(probs.log_probability(ids_B), expected_BV[torch.arange(7), ids_B], rtol=0, atol=tolerance)
    assert torch.allclose(probs.entropy(), -(expected_BV.exp() * expected_BV).sum(-1), rtol=0, atol=tolerance)
