"""Answers in slots: texts that join and leave at any time are what they are alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.comparing.borders import same_texts
from support.comparing.tolerances import in_float64, of_capture, of_logits

from workers.targets.encoding.arrays import UnitTargets
from workers.teacher.config import TeacherConfig
from workers.teacher.engine import CaptureSpec, TextRequest
from workers.teacher.engines.transformers_engine import TransformersEngine
from workers.teacher.generation.slots import SlotCache

V = 300
FULL = CaptureSpec("full", 21, "answer", "float32", V, 11)
SYSTEMATIC = dataclasses.replace(FULL, scheme="systematic")


@pytest.fixture(scope="module")
def engine(tiny_moe: Path) -> TransformersEngine:
    """Four slots, so that texts join and leave; in float64, so that it is they that would change a text."""
    made = TransformersEngine(TeacherConfig(model=str(tiny_moe), batch=4))
    in_float64(made.model)
    return made


def requests(n: int, **fields: Any) -> list[TextRequest]:
    """Prompts of 1 to 12 tokens, to be answered in 1 to 20."""
    rng = np.random.default_rng(3)
    return [
        TextRequest(
            f"p{i}",
            0,
            rng.integers(3, V, 1 + int(rng.integers(12))).tolist(),
            None,
            **{"max_new_tokens": 1 + int(rng.integers(20)), **fields},
        )
        for i in range(n)
    ]


def answers(targets: UnitTargets) -> list[list[int]]:
    split = np.split(targets.tokens, np.cumsum(targets.lengths)[:-1])
    return [t[s:].tolist() for t, s in zip(split, targets.starts, strict=True)]


def alone(engine: TransformersEngine, asked: list[TextRequest], spec: CaptureSpec = FULL) -> UnitTargets:
    return UnitTargets.join([engine.run([r], spec) for r in asked])


def assert_same(
    mine: UnitTargets,
    other: UnitTargets,
    asked: list[TextRequest],
    spec: CaptureSpec = FULL,
    tolerance_of: Callable[[float], float] = of_capture,
) -> None:
    """The same texts and the same distributions."""
    tolerance = tolerance_of(np.abs(other.logprobs).max())
    both = same_texts(mine, other, asked, spec, tolerance)
    found = [t.logprobs.reshape(-1, V)[seen] for t, seen in zip((mine, other), both, strict=True)]
    np.testing.assert_allclose(*found, rtol=0, atol=tolerance)


@pytest.mark.parametrize(
    "architecture, settings",
    [
        ("qwen3_moe", {}),
        ("mixtral", {"sliding_window": 5}),  # distances between tokens must be those of their columns
        ("gemma2", {"sliding_window": 5}),  # every other layer has the window
        ("gpt2", {}),  # positions are learned
    ],
)
@pytest.mark.parametrize("positions", ["answer", "all"])
def test_texts_in_turning_slots_are_those_alone(
    positions: Any, architecture: str, settings: dict[str, Any], save_model: Callable[..., Path]
) -> None:
    engine = TransformersEngine(TeacherConfig(model=str(save_model(architecture, **settings)), batch=4))
    exact = architecture != "gemma2"  # whose attention is eager
    if exact:
        in_float64(engine.model)
    spec, asked = dataclasses.replace(FULL, positions=positions), requests(15)
    together, one_by_one = engine.run(asked, spec), alone(engine, asked, spec)
    assert_same(together, one_by_one, asked, spec, of_capture if exact else of_logits)


def test_a_wrong_mask_is_far_beyond_the_tolerance(engine: TransformersEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """What these tests are worth: each text sees one column before its first, of a text that was there."""
    asked = requests(15)
    one_by_one = alone(engine, asked)

    def mask(cache: SlotCache, first_n: torch.Tensor, tokens: int) -> torch.Tensor:
        columns = torch.arange(cache.start, cache.end + tokens)
        return (columns >= first_n[:, None] - 1).long()

    monkeypatch.setattr(SlotCache, "mask", mask)
    leaking = engine.run(asked, FULL)
    # The first token of an answer comes with its prompt, so that the second has the same text before it in both.
    longer = (leaking.target_lengths > 1) & (one_by_one.target_lengths > 1)
    firsts = [np.cumsum(t.target_lengths) - t.target_lengths for t in (leaking, one_by_one)]
    second, expected = (
        t.logprobs.reshape(-1, V)[first[longer] + 1] for t, first in zip((leaking, one_by_one), firsts, strict=True)
    )
    assert np.abs(second - expected).max() > 1000 * of_capture(np.abs(expected).max())


def test_slots_are_filled_again(engine: TransformersEngine) -> None:
    """Four slots for 16 answers of which one in four is long: in batches of four it would take 4 x 20 passes."""
    engine.stop_ids, before = set(), engine.stop_ids
    try:
        asked = [dataclasses.replace(r, max_new_tokens=20 if i % 4 == 0 else 2) for i, r in enumerate(requests(16))]
        steps = engine.steps
        engine.run(asked, SYSTEMATIC)
    finally:
        engine.stop_ids = before
    assert engine.steps - steps < 50


def test_the_samples_of_a_prompt_share_its_prefill(engine: TransformersEngine) -> None:
    one = requests(1, max_new_tokens=3)[0]
    asked = [dataclasses.replace(one, sample=s) for s in range(4)]
    tokens: list[int] = []
    hook = engine.model.model.embed_tokens.register_forward_hook(lambda m, ids, out: tokens.append(ids[0].numel()))
    try:
        together = engine.run(asked, dataclasses.replace(FULL, positions="all"))
    finally:
        hook.remove()
    assert tokens[0] == len(one.prompt_token_ids)
    spec = dataclasses.replace(FULL, positions="all")
    assert_same(together, alone(engine, asked, spec), asked, spec)


def test_no_prefill_is_larger_than_asked(tiny_moe: Path) -> None:
    small = TransformersEngine(TeacherConfig(model=str(tiny_moe), batch=8, score_tokens=30))
    sizes: list[int] = []
    small.model.model.embed_tokens.register_forward_hook(lambda m, ids, out: sizes.append(ids[0].numel()))
    small.run(requests(20), SYSTEMATIC)
    assert max(sizes) <= 30
    sizes.clear()
    small.run(requests(20), SYSTEMATIC, batch_scale=0.5)
    assert max(sizes) <= 15


def test_each_text_has_its_own_settings(engine: TransformersEngine) -> None:
    """Temperatures, nuclei and least lengths mixed in the same slots."""
    settings = [{}, {"temperature": 0.0}, {"temperature": 0.5}, {"top_p": 0.3}, {"min_new_tokens": 4}]
    asked = [dataclasses.replace(r, **settings[i % 5]) for i, r in enumerate(requests(15, max_new_tokens=9))]
    assert answers(engine.run(asked, SYSTEMATIC)) == answers(alone(engine, asked, SYSTEMATIC))


def test_nothing_ends_an_answer_before_its_least_length(engine: TransformersEngine) -> None:
    """With end tokens that are half of the vocabulary."""
    engine.stop_ids, before = set(range(0, V, 2)), engine.stop_ids
    try:
        free = answers(engine.run(requests(12, max_new_tokens=9), SYSTEMATIC))
        held = answers(engine.run(requests(12, max_new_tokens=9, min_new_tokens=5), SYSTEMATIC))
    finally:
        engine.stop_ids = before
    assert min(map(len, free)) < 4
    for answer in held:
        assert len(answer) >= 5 and all(token % 2 for token in answer[:4])
        assert len(answer) == 9 or answer[-1] % 2 == 0


def test_a_stop_string_ends_an_answer_with_the_token_that_completes_it(engine: TransformersEngine) -> None:
    asked = requests(12, max_new_tokens=12)
    free = answers(engine.run(asked, SYSTEMATIC))
    decode = engine.tokenizer.decode
    stop = decode(free[0][3:5])  # two tokens with what stands between them
    held = answers(engine.run([dataclasses.replace(r, stop=("never", stop)) for r in asked], SYSTEMATIC))
    assert held[0] == free[0][:5]
    for answer, whole in zip(held, free, strict=True):
        assert answer == whole[: len(answer)]
        assert len(answer) == len(whole) or stop in decode(answer)
        assert stop not in decode(answer[:-1])
    late = answers(engine.run([dataclasses.replace(r, stop=(stop,), min_new_tokens=8) for r in asked], SYSTEMATIC))
    assert min(map(len, late)) >= 8


def test_a_smaller_budget_makes_the_same_texts(engine: TransformersEngine) -> None:
    asked = requests(10)
    asked += [
        dataclasses.replace(r, prompt_uid=f"g{i}", answer_token_ids=[5, 6, 7, 8][: i % 5]) for i, r in enumerate(asked)
    ]
    whole, half = engine.run(asked, FULL), engine.run(asked, FULL, batch_scale=0.01)
    assert_same(half, whole, asked)


def memory_of(cache: SlotCache) -> int:
    return sum(t.numel() * t.element_size() for t in cache.tensors())


@pytest.mark.parametrize("texts_at_once", [1, 2.5])
def test_keys_and_values_take_no_more_memory_than_they_may(
    texts_at_once: float, tiny_moe: Path, engine: TransformersEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Room for the longest text alone, or for some: all are answered as ever, four at once where they are short."""
    asked = requests(15)
    a_token = engine._layout.column_bytes(engine._parts) // 2  # that engine's are of float64
    longest = max(len(r.prompt_token_ids) + r.max_new_tokens for r in asked)
    memory = int(texts_at_once * longest) * a_token
    bounded = TransformersEngine(TeacherConfig(model=str(tiny_moe), batch=4, kv_cache_memory=memory))
    in_float64(bounded.model)
    taken, at_work = [], []
    advance = SlotCache.advance

    def advanced(cache: SlotCache, tokens: int) -> None:
        advance(cache, tokens)
        if tokens == 1 and cache._most is not None:
            taken.append(memory_of(cache))
            at_work.append(len(cache.first))

    monkeypatch.setattr(SlotCache, "advance", advanced)
    assert_same(bounded.run(asked, FULL), engine.run(asked, FULL), asked)
    assert 0 < max(taken) <= 2 * memory  # float64 again
    assert max(at_work) == 1 if texts_at_once == 1 else max(at_work) > 2
    taken.clear()
    bounded.run(asked, SYSTEMATIC, batch_scale=0.5)
    assert max(taken) <= max(memory, 2 * longest * a_token)
    too_long = dataclasses.replace(asked[0], max_new_tokens=4 * longest)
    with pytest.raises(ValueError, match=r"teacher\.kv_cache_memory"):
        bounded.run([too_long], FULL)
    bounded.run(asked[:2], SYSTEMATIC, then=[too_long])  # is not to blame for the next ones


def test_a_text_of_no_answer_is_its_prompt(engine: TransformersEngine) -> None:
    targets = engine.run(requests(3, max_new_tokens=0), dataclasses.replace(FULL, positions="all"))
    assert targets.lengths.tolist() == [len(r.prompt_token_ids) for r in requests(3)]
    assert torch.isfinite(torch.from_numpy(targets.logprobs)).all()


@pytest.mark.parametrize("positions", ["answer", "all"])
def test_texts_begun_in_the_slots_of_others_are_those_alone(engine: TransformersEngine, positions: Any) -> None:
    """Three calls, each told of the next; a given text among them, and one call that comes otherwise than was told."""
    spec, asked = dataclasses.replace(FULL, positions=positions), requests(18)
    asked[8] = dataclasses.replace(asked[8], answer_token_ids=[5, 6, 7])
    calls = [asked[:6], asked[6:12], asked[12:]]
    one_by_one = [alone(engine, call, spec) for call in calls]
    before = engine.steps
    apart = [engine.run(call, spec) for call in calls]
    steps = engine.steps - before
    before = engine.steps
    told = [engine.run(call, spec, then=then) for call, then in zip(calls, [*calls[1:], []], strict=True)]
    assert engine.steps - before < steps, "slots that were free are used"
    for call, mine, other, whole in zip(calls, told, apart, one_by_one, strict=True):
        assert_same(mine, whole, call, spec)
        assert mine.texts == other.texts
    engine.run(calls[0], spec, then=calls[1])
    assert_same(engine.run(calls[2], spec), one_by_one[2], calls[2], spec)


def test_what_was_begun_is_dropped_with_a_call_that_fails(
    engine: TransformersEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = requests(12)
    whole = alone(engine, asked[6:])
    engine.run(asked[:6], FULL, then=asked[6:])
    with monkeypatch.context() as patch:
        patch.setattr(SlotCache, "mask", lambda cache, first_n, tokens: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            engine.run(asked[6:], FULL)
    assert_same(engine.run(asked[6:], FULL), whole, asked[6:])
