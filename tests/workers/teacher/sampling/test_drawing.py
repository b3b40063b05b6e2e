"""What is kept of a distribution, as a student weighs it: unbiased whatever the scheme, exact where it is promised."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from workers.randomness import generator
from workers.targets.encoding.arrays import UnitTargets
from workers.targets.encoding.scalars import PROBABILITIES
from workers.targets.encoding.schema import StoreHeader
from workers.targets.reader import TargetRow, rows_of
from workers.teacher.engine import CaptureSpec, TextRequest
from workers.teacher.sampling.capture import CaptureBuffer

V, N, ALWAYS = 60, 21, (4, 17, 33)
HEADER = StoreHeader("systematic", N, "answer", "float32", V, "tokenizer", "template", 3)
SAMPLED = {
    "systematic": {},
    "multinomial": {"scheme": "multinomial"},
    "threshold": {"scheme": "threshold"},
}


def header(**fields: object) -> StoreHeader:
    return replace(HEADER, **fields)  # type: ignore[arg-type]


def logits_V() -> torch.Tensor:
    """Probabilities from a half down to 1e-6, in no order."""
    return torch.linspace(0, -13, V)[torch.randperm(V, generator=torch.Generator().manual_seed(0))]


def captured(
    header: StoreHeader, positions: int, logits: torch.Tensor | None = None, *, name: str = "p"
) -> UnitTargets:
    """One text that meets the same distribution at every position."""
    request = TextRequest(name, 0, [0], list(range(1, 2)) * positions)
    buffer = CaptureBuffer([request], CaptureSpec.of(header, ()))
    z_TV = (logits_V() if logits is None else logits).expand(positions, V)
    buffer.add(
        np.zeros(positions, np.int64), np.arange(1, positions + 1), z_TV, torch.ones(positions, dtype=torch.long)
    )
    unit = buffer.finish([[0] + [1] * positions], [1])
    unit.texts, unit.ends = ["x"], np.zeros(positions + 1, np.uint32)
    return unit


def dense(row: TargetRow) -> np.ndarray:
    """Weights [T, V]."""
    weights_TV = np.zeros((row.targets, V))
    np.add.at(weights_TV, (np.repeat(np.arange(row.targets), row.num_kept), row.ids), row.weights)
    return weights_TV


@pytest.mark.parametrize("always", [(), ALWAYS], ids=["", "always-kept ids"])
@pytest.mark.parametrize("scheme", SAMPLED)
def test_every_id_weighs_its_probability_on_average(scheme: str, always: tuple[int, ...]) -> None:
    """20,000 positions through capture and reader: |z| below 4.5 for every id, with the spread that is seen."""
    own, n = header(**SAMPLED[scheme], always=always), 20_000
    weights_TV = dense(rows_of(captured(own, n), own)[0])
    p_V = logits_V().double().softmax(-1).numpy()
    seen_V = (weights_TV > 0).sum(0) >= 20  # below that a mean is not normal
    error_V = np.sqrt(weights_TV.var(0) / n + (1e-6 * p_V) ** 2)
    z_V = (weights_TV.mean(0) - p_V) / error_V
    assert seen_V.sum() > 25 and np.abs(z_V[seen_V]).max() < 4.5
    assert weights_TV[:, ~seen_V].sum() / n == pytest.approx(p_V[~seen_V].sum(), rel=0.5)
    if scheme != "threshold":
        np.testing.assert_allclose(weights_TV.sum(1), 1, atol=1e-6)


def test_always_kept_ids_are_exact_to_a_twentieth_of_a_percent_and_unbiased() -> None:
    own, n = header(always=ALWAYS), 20_000
    unit = captured(own, n)
    p_A = logits_V().double().softmax(-1).numpy()[list(ALWAYS)]
    kept_TA = PROBABILITIES[unit.always.reshape(n, 3)]
    assert (np.abs(kept_TA / p_A - 1) < 5e-4).all()
    z_A = (kept_TA.mean(0) - p_A) / np.sqrt(kept_TA.var(0) / n + (1e-6 * p_A) ** 2)
    assert np.abs(z_A).max() < 4.5
    assert not np.isin(unit.ids, ALWAYS).any()


@pytest.mark.parametrize("sure", [ALWAYS[0], 9], ids=["always kept", "drawn"])
def test_a_certain_token(sure: int) -> None:
    """All mass in the exact stratum, or none: weights sum to 1, and nothing is drawn that has no mass to speak of."""
    own, logits = header(always=ALWAYS), torch.full((V,), -torch.inf)
    logits[sure] = 0
    weights_TV = dense(rows_of(captured(own, 50, logits), own)[0])
    np.testing.assert_allclose(weights_TV[:, sure], 1, atol=1e-6)
    np.testing.assert_allclose(np.delete(weights_TV, sure, 1), 0, atol=1e-6)


@pytest.mark.parametrize("scheme", SAMPLED)
def test_draws_are_independent_of_each_other(scheme: str) -> None:
    own, n = header(**SAMPLED[scheme], redraws=3), 4000
    unit = captured(own, n)
    weights = [dense(rows_of(unit.with_draw(i), own)[0]) for i in range(3)]
    p_V = logits_V().double().softmax(-1).numpy()
    for one, other in ((0, 1), (0, 2), (1, 2)):
        product_TV = (weights[one] - p_V) * (weights[other] - p_V)
        spread_V = weights[one].std(0) * weights[other].std(0)
        noisy_V = (weights[one] > 0).sum(0) >= 50
        noisy_V &= spread_V > 1e-6
        z_V = product_TV.mean(0)[noisy_V] / (spread_V[noisy_V] / np.sqrt(n))
        assert noisy_V.sum() > 10 and np.abs(z_V).max() < 4.5
    mean_TV, single = np.mean(weights, 0), ((weights[0] - p_V) ** 2).sum(1).mean()
    assert ((mean_TV - p_V) ** 2).sum(1).mean() == pytest.approx(single / 3, rel=0.1)


def test_top_k_and_its_tail_are_the_whole() -> None:
    own, n = header(scheme="topk", top_k=7, always=ALWAYS), 20_000
    unit = captured(own, n)
    row = rows_of(unit, own)[0]
    p_V = logits_V().double().softmax(-1).numpy()
    others = np.setdiff1d(np.argsort(-p_V), ALWAYS, assume_unique=True)
    kept = sorted([*others[np.argsort(-p_V[others])][:7], *ALWAYS])
    weights_TV = dense(row)
    assert (np.flatnonzero(weights_TV.max(0)) == kept).all() and (row.num_kept == 10).all()
    assert (np.abs(weights_TV[:, kept] / p_V[kept] - 1) < 6e-4).all()
    total_T = np.column_stack([weights_TV[:, kept], row.tail])
    exact = np.append(p_V[kept], 1 - p_V[kept].sum())
    z = (total_T.mean(0) - exact) / np.sqrt(total_T.var(0) / n + (2e-6 * exact) ** 2)
    assert np.abs(z).max() < 4.5


def test_top_k_without_its_tail_fails_the_test_of_unbiasedness() -> None:
    """What that test is worth: naive and renormalised top-k are far outside it."""
    own, n = header(scheme="topk", top_k=7), 20_000
    weights_TV = dense(rows_of(captured(own, n), own)[0])
    p_V = logits_V().double().softmax(-1).numpy()
    spread_V = dense(rows_of(captured(HEADER, n), HEADER)[0]).std(0)
    for biased_TV in (weights_TV, weights_TV / weights_TV.sum(1, keepdims=True)):
        z_V = (biased_TV.mean(0) - p_V) / (spread_V / np.sqrt(n) + 1e-12)
        assert np.abs(z_V[p_V > 1e-3]).max() > 4.5


@pytest.mark.parametrize("temperature", [0.5, 2.0])
@pytest.mark.parametrize("scheme", [*SAMPLED, "topk", "full"])
def test_the_capture_temperature_is_that_of_the_softmax(scheme: str, temperature: float) -> None:
    own = header(scheme=scheme, top_k=10, temperatures={"*": 1.0, "legal": temperature})
    assert own.temperature_of(("medical",)) == 1 and own.temperature_of(("legal",)) == temperature
    with pytest.raises(ValueError, match="medical and legal"):
        own.temperature_of(("medical", "legal"))
    unit = captured(replace(own, temperatures={"*": temperature}), 4000)
    row = rows_of(unit, own)[0]
    p_V = (logits_V().double() / temperature).softmax(-1).numpy()
    entropy = float(-(p_V * np.log(p_V)).sum())
    assert row.temperature == temperature and unit.temperature == temperature
    assert row.entropy.mean() == pytest.approx(entropy, rel=0.01)
    assert row.token_logprob.mean() == pytest.approx(np.log(p_V[1]), rel=0.01)
    if row.logprobs is not None:
        np.testing.assert_allclose(np.exp(row.logprobs[0]), p_V, rtol=1e-4)
    else:
        top = int(p_V.argmax())
        assert dense(row)[:, top].mean() == pytest.approx(p_V[top], rel=0.02)


def test_what_is_kept_does_not_depend_on_how_positions_come() -> None:
    """In chunks of any size and in any order: the same unit."""
    own, n = header(always=ALWAYS, redraws=2), 200
    rng = generator(0, "test")
    z_TV = torch.from_numpy(rng.normal(size=(n, V)) * 3).float()
    tokens_T = torch.from_numpy(rng.integers(0, V, n))
    hashes = set()
    for pieces in (1, 3, 50):
        order = np.arange(n) if pieces == 1 else rng.permutation(n)
        buffer = CaptureBuffer([TextRequest("p", 0, [0], [1] * n)], CaptureSpec.of(own, ()))
        for part in np.array_split(order, pieces):
            buffer.add(np.zeros(len(part), np.int64), part + 1, z_TV[part], tokens_T[part])
        unit = buffer.finish([[0] + [1] * n], [1])
        hashes.add(unit.content_hash())
    assert len(hashes) == 1
