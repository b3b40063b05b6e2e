"""The vLLM engine beside the transformers engine on the same models: `make test-vllm`, in an environment with vLLM."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.commit_processes import entry_of
from support.comparing.borders import (
    at_positions,
    draw_offsets,
    same_codes,
    same_draws,
    same_head,
    same_on_grid,
    same_texts,
)
from support.comparing.tolerances import of_logits

from cluster.storage import LocalStorage
from workers.targets.encoding.arrays import UnitTargets
from workers.targets.encoding.scalars import PROBABILITIES
from workers.targets.encoding.schema import StoreHeader
from workers.targets.store import TargetStore
from workers.teacher.config import TeacherConfig
from workers.teacher.engine import CaptureSpec, TextRequest
from workers.teacher.engines.transformers_engine import TransformersEngine
from workers.teacher.engines.vllm_engine import VllmEngine

pytestmark = pytest.mark.vllm

V, K, EOS = 300, 8, 1
TOPK = CaptureSpec("topk", 21, "answer", "float32", V, 11, top_k=K)
FULL = CaptureSpec("full", 21, "answer", "float32", V, 11)
SYSTEMATIC = CaptureSpec("systematic", 21, "answer", "float32", V, 11, redraws=2, always=(EOS, 7))
LARGEST = {"max_model_len": 128, "enforce_eager": True}

Pair = tuple[VllmEngine, TransformersEngine]
Seen = tuple[np.ndarray, np.ndarray]


@pytest.fixture(scope="module", params=["qwen3", "qwen3_moe"])
def pair(request: pytest.FixtureRequest, save_model: Callable[..., Path]) -> Iterator[Pair]:
    """Both engines with the same random weights. vLLM has no attention of 16-wide heads on a CPU."""
    from vllm.distributed import cleanup_dist_env_and_memory

    folder = str(save_model(request.param, head_dim=32))
    config = TeacherConfig(
        model=folder, engine="vllm", vllm={"engine_kwargs": LARGEST}, batch=4, kv_cache_memory=1 << 26
    )
    yield VllmEngine(config), TransformersEngine(TeacherConfig(model=folder))
    cleanup_dist_env_and_memory()  # the groups of a dense model are not those of a mixture


def asked(n: int = 7, new_tokens: int = 10, **fields: Any) -> list[TextRequest]:
    """Prompts of unequal lengths, more than vLLM runs at once, to be answered."""
    rng = np.random.default_rng(0)
    prompts = [rng.integers(3, V, 2 + (5 * i) % 9).tolist() for i in range(n)]
    return [TextRequest(f"p{i}", i % 2, p, None, max_new_tokens=new_tokens, **fields) for i, p in enumerate(prompts)]


def given() -> list[TextRequest]:
    rng = np.random.default_rng(1)
    return [dataclasses.replace(r, answer_token_ids=rng.integers(3, V, 3 + i).tolist()) for i, r in enumerate(asked())]


def of(spec: CaptureSpec, **fields: Any) -> CaptureSpec:
    return dataclasses.replace(spec, **fields)


def answers(targets: UnitTargets) -> list[list[int]]:
    texts = np.split(targets.tokens, np.cumsum(targets.lengths)[:-1])
    return [t[s:].tolist() for t, s in zip(texts, targets.starts, strict=True)]


def logp_TV(targets: UnitTargets) -> np.ndarray:
    return targets.logprobs.reshape(len(targets.entropy), -1).astype(np.float64)


def off_by(full: UnitTargets) -> float:
    """What rounding leaves between log-probabilities of two engines: attention's output is 128 wide here."""
    return of_logits(np.abs(full.logprobs).max(), width=128)


def compare_texts(mine: UnitTargets, full: UnitTargets, requests: list[TextRequest], spec: CaptureSpec = FULL) -> Seen:
    """Assert that texts are those of a `full` capture; the positions of either that can be compared."""
    return same_texts(mine, full, requests, spec, off_by(full))


def compare(mine: UnitTargets, full: UnitTargets, requests: list[TextRequest], spec: CaptureSpec = FULL) -> None:
    """Assert that two `full` captures are the same."""
    seen, seen_other = compare_texts(mine, full, requests, spec)
    close = {"rtol": 0, "atol": off_by(full)}
    np.testing.assert_allclose(logp_TV(mine)[seen], logp_TV(full)[seen_other], **close)
    np.testing.assert_allclose(mine.entropy[seen], full.entropy[seen_other], **close)  # a mean of log-probabilities


def compare_heads(mine: UnitTargets, full: UnitTargets, requests: list[TextRequest], spec: CaptureSpec = TOPK) -> None:
    """Assert that what `topk` kept is the head and the tail of a `full` capture, and that both are one distribution."""
    seen, seen_other = compare_texts(mine, full, requests, spec)
    head, p_TV = at_positions(mine.draws[0], seen), np.exp(logp_TV(full)[seen_other])
    same_head(head, mine.tail[seen], p_TV, K, off_by(full))
    # Each code is rounded by .05 % at most.
    whole = PROBABILITIES[head.counts].reshape(-1, K).sum(1) + PROBABILITIES[mine.tail[seen]]
    np.testing.assert_allclose(whole, 1, rtol=0, atol=1e-3)


# Beside the transformers engine -----------------------------------------------------------------------------


@pytest.mark.parametrize("positions", ["answer", "all"])
@pytest.mark.parametrize("requests", [asked(), given()], ids=["made", "given"])
def test_top_k_is_that_of_the_transformers_engine(pair: Pair, requests: list[TextRequest], positions: Any) -> None:
    full = pair[1].run(requests, of(FULL, positions=positions))
    for engine in pair:
        compare_heads(engine.run(requests, of(TOPK, positions=positions)), full, requests)


@pytest.mark.parametrize("positions", ["answer", "all"])
@pytest.mark.parametrize("requests", [asked(), given()], ids=["made", "given"])
def test_full_distributions_are_exact(pair: Pair, requests: list[TextRequest], positions: Any) -> None:
    mine, other = (engine.run(requests, of(FULL, positions=positions)) for engine in pair)
    compare(mine, other, requests)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("requests", [asked(), given()], ids=["made", "given"])
def test_sampled_schemes_are_exact(pair: Pair, requests: list[TextRequest], temperature: float) -> None:
    """At any capture temperature, with always-kept ids and redraws: the same random numbers draw the same ids, but for
    points of the running sum that lie at a border."""
    spec = of(SYSTEMATIC, temperature=temperature)
    mine, other = (engine.run(requests, spec) for engine in pair)
    full = pair[1].run(requests, FULL)
    np.testing.assert_array_equal(other.tokens, full.tokens)
    seen, seen_other = compare_texts(mine, full, requests, spec)
    heated_TV, tolerance = np.exp(logp_TV(full)[seen_other] / temperature), off_by(full) / temperature
    p_TV = heated_TV / heated_TV.sum(1, keepdims=True)
    for targets, keep in ((mine, seen), (other, seen_other)):
        codes = targets.always.reshape(-1, len(spec.always))[keep]
        same_codes(codes, p_TV[:, spec.always], tolerance)
    p_TV[:, spec.always] = 0  # the others are drawn from what is left
    offsets = draw_offsets(requests, mine, spec)[seen]
    for number, (one, two) in enumerate(zip(mine.draws, other.draws, strict=True)):
        drawn = at_positions(one, seen), at_positions(two, seen_other)
        assert same_draws(*drawn, p_TV, offsets[:, number], spec.draws, tolerance) > 0.9


def test_the_entropy_of_a_text_that_is_read_off_is_a_lower_bound(pair: Pair) -> None:
    mine, other = (engine.run(given(), TOPK) for engine in pair)
    assert (mine.entropy <= other.entropy).all() and (mine.entropy < other.entropy).any()
    same_on_grid(mine.token_logprob, other.token_logprob, "token_logprob")


def test_the_expected_frequencies_are_those_of_the_heads(pair: Pair) -> None:
    tolerance = 2 * off_by(pair[1].run(given(), FULL))  # of a probability, relative to it
    mine, other = (engine.run(given(), of(TOPK, marginal=True)).marginal for engine in pair)
    assert mine.shape == other.shape == (V,) and (mine <= other * (1 + tolerance)).all()
    head_mass = PROBABILITIES[pair[0].run(given(), TOPK).counts].sum()
    assert mine.sum() == pytest.approx(head_mass, rel=1e-3)
    exact = [engine.run(given(), of(FULL, marginal=True)).marginal for engine in pair]
    np.testing.assert_allclose(*exact, rtol=tolerance)


# Answers ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [{"temperature": 0.0}, {"temperature": 0.7, "top_p": 0.8}, {}])
def test_answers_are_those_of_the_transformers_engine(pair: Pair, settings: dict[str, float]) -> None:
    mine, other = (engine.run(asked(**settings), FULL) for engine in pair)
    compare_texts(mine, other, asked(**settings))


def test_the_seed_decides_the_text(pair: Pair) -> None:
    once, again = (pair[0].run(asked(), FULL) for _ in range(2))
    compare_texts(once, again, asked())
    assert answers(pair[0].run(asked(), of(FULL, seed=12))) != answers(once)


def test_a_smaller_budget_gives_the_same_text_in_more_steps(pair: Pair) -> None:
    before = pair[0].steps
    whole = pair[0].run(asked(), FULL)
    steps = pair[0].steps - before
    compare(pair[0].run(asked(), FULL, batch_scale=0.3), whole, asked())
    assert pair[0].steps - before - steps > steps > 0


def test_lengths_are_kept(pair: Pair) -> None:
    free = answers(pair[0].run(asked(40, 30), FULL))
    assert {len(a) for a in free if a[-1] != EOS} <= {30} and any(a[-1] == EOS for a in free)
    long = answers(pair[0].run(asked(40, 30, min_new_tokens=30), FULL))
    assert [len(a) for a in long] == [30] * 40 and not any(EOS in a[:-1] for a in long)


def test_a_stop_string_ends_an_answer_with_its_token(pair: Pair) -> None:
    free = answers(pair[0].run(asked(), FULL))
    word = next(t for t in free[0] if t >= 3)
    stopped = answers(pair[0].run(asked(stop=(f"w{word}",)), FULL))
    # `w1` is part of `w12`, so an answer may end before the word itself; it is a beginning of the free one.
    assert stopped[0][-1] in free[0] and stopped[0] == free[0][: len(stopped[0])]
    assert f"w{word}" in f"w{stopped[0][-1]}" and len(stopped[0]) <= free[0].index(word) + 1
    mine, other = (engine.run(asked(stop=(f"w{word}",)), FULL) for engine in pair)
    compare_texts(mine, other, asked())


def test_nothing_to_do(pair: Pair) -> None:
    assert pair[0].run([], FULL).rows == 0
    targets = pair[0].run([dataclasses.replace(asked()[0], answer_token_ids=[])], FULL)
    assert targets.rows == 1 and len(targets.entropy) == 0


def test_a_text_that_is_too_long_is_refused_and_the_next_is_not(pair: Pair) -> None:
    from vllm.exceptions import VLLMValidationError

    with pytest.raises(VLLMValidationError, match=r"129.*128"):
        pair[0].run([dataclasses.replace(asked()[0], prompt_token_ids=[5] * 129), *asked()], FULL)
    mine, other = (engine.run(asked(), FULL) for engine in pair)
    compare_texts(mine, other, asked())


# The store --------------------------------------------------------------------------------------------------


def test_a_unit_goes_through_the_store(pair: Pair, local: LocalStorage) -> None:
    header = StoreHeader("topk", 21, "answer", "float32", V, "tokenizer", "template", 11, top_k=K)
    store = TargetStore(local, "train")
    store.create(header)
    spec = CaptureSpec.of(header, ())
    store.vocab_order_files.create(pair[0].run(given(), of(spec, marginal=True)).marginal)
    targets = pair[0].run(asked() + given(), spec)
    entry = entry_of(store, 0, targets)
    assert store.log.commit(entry)
    read = store.read_unit(entry)
    assert read.content_hash() == targets.content_hash()


# A rank -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pair", ["qwen3_moe"], indirect=True)
def test_a_rank_with_two_tensor_parallel_workers(pair: Pair) -> None:
    """In a Ray actor, as a worker group's ranks are; its workers are processes of their own, of which the first one's
    capture counts. vLLM's kernels for CPUs crash on a part of a mixture's experts, so each expert is cut."""
    import ray

    from workers.teacher.engines.choosing import load_engine

    class Rank:
        def __init__(self, config: TeacherConfig) -> None:
            self._engine = load_engine(config, rank=0, ranks=1, device="cpu", address="127.0.0.1", port=0)

        def run(self, requests: list[TextRequest], spec: CaptureSpec) -> UnitTargets:
            return self._engine.run(requests, spec)

    vllm = {"engine_kwargs": LARGEST, "tensor_parallel": 2, "enable_expert_parallel": False}
    config = TeacherConfig(model=pair[1].config.model, engine="vllm", vllm=vllm, kv_cache_memory=1 << 26)
    ray.init(address="local", num_cpus=2, include_dashboard=False)
    try:
        rank = ray.remote(num_cpus=2)(Rank).remote(config)
        made, scored = ray.get([rank.run.remote(r, s) for r, s in ((asked(), FULL), (given(), TOPK))])
    finally:
        ray.shutdown()
    compare(made, pair[1].run(asked(), FULL), asked())
    compare_heads(scored, pair[1].run(given(), FULL), given())


# Ids beyond the tokenizer's, at the end: vLLM is narrowed for good ------------------------------------------


@pytest.mark.parametrize("spec", [of(TOPK, vocabulary=200), of(FULL, vocabulary=200)], ids=["topk", "full"])
def test_ids_beyond_the_tokenizer_have_no_share(pair: Pair, spec: CaptureSpec) -> None:
    low = [
        dataclasses.replace(
            r, prompt_token_ids=[t % 200 for t in r.prompt_token_ids], answer_token_ids=[3 + t % 197 for t in range(9)]
        )
        for r in given()
    ]
    before = pair[0].steps
    mine, full = pair[0].run(low, spec), pair[1].run(low, of(FULL, vocabulary=200))
    if spec.scheme == "full":
        compare(mine, full, low, spec)
    else:
        assert pair[0].steps - before < 4, "read off, not walked through"
        compare_heads(mine, full, low, spec)
        compare_heads(pair[1].run(low, spec), full, low, spec)
