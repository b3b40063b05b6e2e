"""The vLLM engine beside the transformers engine on the same models: `make test-vllm`, in an environment with vLLM."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from committing import entry_of

from cluster.storage import LocalStorage
from workers.targets.arrays import UnitTargets
from workers.targets.scalars import PROBABILITIES
from workers.targets.schema import StoreHeader
from workers.targets.store import TargetStore
from workers.teacher.config import TeacherConfig
from workers.teacher.engine import CaptureSpec, TextRequest
from workers.teacher.transformers_engine import TransformersEngine
from workers.teacher.vllm_engine import VllmEngine

pytestmark = pytest.mark.vllm

V, K, EOS = 300, 8, 1
TOPK = CaptureSpec("topk", 21, "answer", "float32", V, 11, top_k=K)
FULL = CaptureSpec("full", 21, "answer", "float32", V, 11)
SYSTEMATIC = CaptureSpec("systematic", 21, "answer", "float32", V, 11, redraws=2, always=(EOS, 7))
LARGEST = {"max_model_len": 128, "enforce_eager": True, "kv_cache_memory_bytes": 1 << 26}

Pair = tuple[VllmEngine, TransformersEngine]


@pytest.fixture(scope="module", params=["qwen3", "qwen3_moe"])
def pair(request: pytest.FixtureRequest, save_model: Callable[..., Path]) -> Iterator[Pair]:
    """Both engines with the same random weights. vLLM has no attention of 16-wide heads on a CPU."""
    from vllm.distributed import cleanup_dist_env_and_memory

    folder = str(save_model(request.param, head_dim=32))
    config = TeacherConfig(model=folder, engine="vllm", vllm={"engine_kwargs": LARGEST}, batch=4)
    yield VllmEngine(config), TransformersEngine(TeacherConfig(model=folder))
    cleanup_dist_env_and_memory()  # the groups of a dense model are not those of a mixture


def asked(n: int = 7, new_tokens: int = 10, **fields: Any) -> list[TextRequest]:
    """Prompts of unequal lengths, more than vLLM runs at once, to be answered."""
    rng = np.random.default_rng(0)
    prompts = [rng.integers(3, V, 2 + (5 * i) % 9).tolist() for i in range(n)]
    return [TextRequest(f"p{i}", i % 2, p, None, max_new_tokens=new_tokens, **fields) for i, p in enumerate(prompts)]


def given() -> list[TextRequest]:
    rng = np.random.default_rng(1)
    return [dataclasses.replace(r, answer_ids=rng.integers(3, V, 3 + i).tolist()) for i, r in enumerate(asked())]


def of(spec: CaptureSpec, **fields: Any) -> CaptureSpec:
    return dataclasses.replace(spec, **fields)


def answers(targets: UnitTargets) -> list[list[int]]:
    texts = np.split(targets.tokens, np.cumsum(targets.lengths)[:-1])
    return [t[s:].tolist() for t, s in zip(texts, targets.starts, strict=True)]


def head(targets: UnitTargets) -> tuple[np.ndarray, np.ndarray]:
    """Ids and log-probabilities of `topk` [T, K], by id."""
    draw = targets.draws[0].by_id()
    return draw.ids.reshape(-1, K), np.log(PROBABILITIES[draw.counts]).reshape(-1, K)


def assert_same_texts(mine: UnitTargets, other: UnitTargets) -> None:
    assert mine.prompt_ids == other.prompt_ids and mine.texts == other.texts
    for name in ("samples", "tokens", "lengths", "starts", "ends"):
        np.testing.assert_array_equal(getattr(mine, name), getattr(other, name), name)


# Beside the transformers engine -----------------------------------------------------------------------------


@pytest.mark.parametrize("positions", ["answer", "all"])
@pytest.mark.parametrize("requests", [asked(), given()], ids=["made", "given"])
def test_top_k_is_that_of_the_transformers_engine(pair: Pair, requests: list[TextRequest], positions: Any) -> None:
    mine, other = (engine.run(requests, of(TOPK, positions=positions)) for engine in pair)
    assert_same_texts(mine, other)
    (my_ids, my_logp), (ids, logp) = head(mine), head(other)
    np.testing.assert_array_equal(my_ids, ids)
    np.testing.assert_allclose(my_logp, logp, atol=1e-3)
    np.testing.assert_allclose(PROBABILITIES[mine.tail], PROBABILITIES[other.tail], atol=1e-3)
    # The head and the tail are one distribution, each code rounded by .05 % at most.
    np.testing.assert_allclose(np.exp(my_logp).sum(-1) + PROBABILITIES[mine.tail], 1, atol=1e-3)


@pytest.mark.parametrize("positions", ["answer", "all"])
@pytest.mark.parametrize("requests", [asked(), given()], ids=["made", "given"])
def test_full_distributions_are_exact(pair: Pair, requests: list[TextRequest], positions: Any) -> None:
    mine, other = (engine.run(requests, of(FULL, positions=positions)) for engine in pair)
    assert_same_texts(mine, other)
    np.testing.assert_allclose(mine.logprobs, other.logprobs, atol=1e-4)
    np.testing.assert_allclose(mine.entropy, other.entropy, atol=1e-4)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("requests", [asked(), given()], ids=["made", "given"])
def test_sampled_schemes_are_exact(pair: Pair, requests: list[TextRequest], temperature: float) -> None:
    """At any capture temperature, with always-kept ids and redraws: the same random numbers draw the same ids."""
    mine, other = (engine.run(requests, of(SYSTEMATIC, temperature=temperature)) for engine in pair)
    assert_same_texts(mine, other)
    same = [np.array_equal(a.ids, b.ids) for a, b in zip(mine.draws, other.draws, strict=True)]
    assert same == [True, True]  # but for a point of the running sum within 1e-6 of a border
    np.testing.assert_allclose(PROBABILITIES[mine.always], PROBABILITIES[other.always], atol=1e-3)


def test_the_entropy_of_a_text_that_is_read_off_is_a_lower_bound(pair: Pair) -> None:
    mine, other = (engine.run(given(), TOPK) for engine in pair)
    assert (mine.entropy <= other.entropy).all() and (mine.entropy < other.entropy).any()
    np.testing.assert_allclose(mine.realised, other.realised, atol=0.2)


def test_the_expected_frequencies_are_those_of_the_heads(pair: Pair) -> None:
    mine, other = (engine.run(given(), of(TOPK, marginal=True)).marginal for engine in pair)
    assert mine.shape == other.shape == (V,) and (mine <= other + 1e-4).all()
    head_mass = np.exp(head(pair[0].run(given(), TOPK))[1]).sum()
    assert mine.sum() == pytest.approx(head_mass, rel=2e-3)
    exact = [engine.run(given(), of(FULL, marginal=True)).marginal for engine in pair]
    np.testing.assert_allclose(*exact, atol=1e-4)


# Answers ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [{"temperature": 0.0}, {"temperature": 0.7, "top_p": 0.8}, {}])
def test_answers_are_those_of_the_transformers_engine(pair: Pair, settings: dict[str, float]) -> None:
    mine, other = (engine.run(asked(**settings), FULL) for engine in pair)
    assert_same_texts(mine, other)


def test_the_seed_decides_the_text(pair: Pair) -> None:
    once, again = (pair[0].run(asked(), FULL) for _ in range(2))
    assert_same_texts(once, again)
    assert answers(pair[0].run(asked(), of(FULL, seed=12))) != answers(once)


def test_a_smaller_budget_gives_the_same_text_in_more_steps(pair: Pair) -> None:
    before = pair[0].steps
    whole = pair[0].run(asked(), FULL)
    steps = pair[0].steps - before
    assert_same_texts(pair[0].run(asked(), FULL, budget=0.3), whole)
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
    assert_same_texts(*(engine.run(asked(stop=(f"w{word}",)), FULL) for engine in pair))


def test_nothing_to_do(pair: Pair) -> None:
    assert pair[0].run([], FULL).rows == 0
    targets = pair[0].run([dataclasses.replace(asked()[0], answer_ids=[])], FULL)
    assert targets.rows == 1 and len(targets.entropy) == 0


def test_a_text_that_is_too_long_is_refused_and_the_next_is_not(pair: Pair) -> None:
    from vllm.exceptions import VLLMValidationError

    with pytest.raises(VLLMValidationError, match=r"129.*128"):
        pair[0].run([dataclasses.replace(asked()[0], prompt_ids=[5] * 129), *asked()], FULL)
    assert_same_texts(*(engine.run(asked(), FULL) for engine in pair))


# The store --------------------------------------------------------------------------------------------------


def test_a_unit_goes_through_the_store(pair: Pair, local: LocalStorage) -> None:
    header = StoreHeader("topk", 21, "answer", "float32", V, "tokenizer", "template", 11, top_k=K)
    store = TargetStore(local, "train")
    store.create(header)
    spec = CaptureSpec.of(header, ())
    store.rank_files.create(pair[0].run(given(), of(spec, marginal=True)).marginal)
    targets = pair[0].run(asked() + given(), spec)
    entry = entry_of(store, 0, targets)
    assert store.log.commit(entry)
    read = store.read_unit(entry)
    assert read.content_hash() == targets.content_hash()


# A rank -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pair", ["qwen3_moe"], indirect=True)
def test_a_rank_with_two_tensor_parallel_workers(pair: Pair) -> None:
    """In a Ray actor, as a gang's ranks are; its workers are processes of their own, of which the first one's capture
    counts. vLLM's kernels for CPUs crash on a part of a mixture's experts, so each expert is cut."""
    import ray

    from workers.teacher.engines import load_engine

    class Rank:
        def __init__(self, config: TeacherConfig) -> None:
            self._engine = load_engine(config, rank=0, ranks=1, device="cpu", address="127.0.0.1", port=0)

        def run(self, requests: list[TextRequest], spec: CaptureSpec) -> UnitTargets:
            return self._engine.run(requests, spec)

    vllm = {"engine_kwargs": LARGEST, "tensor_parallel": 2, "enable_expert_parallel": False}
    config = TeacherConfig(model=pair[1].config.model, engine="vllm", vllm=vllm)
    ray.init(address="local", num_cpus=2, include_dashboard=False)
    try:
        rank = ray.remote(num_cpus=2)(Rank).remote(config)
        made, scored = ray.get([rank.run.remote(r, s) for r, s in ((asked(), FULL), (given(), TOPK))])
    finally:
        ray.shutdown()
    other = pair[1].run(asked(), FULL)
    assert_same_texts(made, other)
    np.testing.assert_allclose(made.logprobs, other.logprobs, atol=1e-4)
    np.testing.assert_array_equal(head(scored)[0], head(pair[1].run(given(), TOPK))[0])


# Ids beyond the tokenizer's, at the end: vLLM is narrowed for good ------------------------------------------


@pytest.mark.parametrize("spec", [of(TOPK, vocabulary=200), of(FULL, vocabulary=200)], ids=["topk", "full"])
def test_ids_beyond_the_tokenizer_have_no_share(pair: Pair, spec: CaptureSpec) -> None:
    low = [
        dataclasses.replace(r, prompt_ids=[t % 200 for t in r.prompt_ids], answer_ids=[3 + t % 197 for t in range(9)])
        for r in given()
    ]
    before = pair[0].steps
    mine, other = (engine.run(low, spec) for engine in pair)
    if spec.scheme == "full":
        np.testing.assert_allclose(mine.logprobs, other.logprobs, atol=1e-4)
    else:
        assert pair[0].steps - before < 4, "read off, not walked through"
        np.testing.assert_array_equal(head(mine)[0], head(other)[0])
        np.testing.assert_allclose(head(mine)[1], head(other)[1], atol=1e-3)
        np.testing.assert_allclose(PROBABILITIES[mine.tail], PROBABILITIES[other.tail], atol=1e-3)
