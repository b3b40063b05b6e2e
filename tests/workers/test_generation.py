"""Answers in slots: texts that join and leave at any time are what they are alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from workers.targets.arrays import UnitTargets
from workers.teacher.config import TeacherConfig
from workers.teacher.engine import CaptureSpec, TextRequest
from workers.teacher.transformers_engine import TransformersEngine

V = 300
FULL = CaptureSpec("full", 21, "answer", "float32", V, 11)
SYSTEMATIC = dataclasses.replace(FULL, scheme="systematic")


@pytest.fixture(scope="module")
def engine(tiny_moe: Path) -> TransformersEngine:
    return TransformersEngine(TeacherConfig(model=str(tiny_moe), batch=4))


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
    spec, asked = dataclasses.replace(FULL, positions=positions), requests(15)
    together, one_by_one = engine.run(asked, spec), alone(engine, asked, spec)
    assert answers(together) == answers(one_by_one)
    np.testing.assert_allclose(together.logprobs, one_by_one.logprobs, atol=2e-5)


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
    assert tokens[0] == len(one.prompt_ids)
    np.testing.assert_allclose(
        together.logprobs, alone(engine, asked, dataclasses.replace(FULL, positions="all")).logprobs, atol=2e-5
    )


def test_no_prefill_is_larger_than_asked(tiny_moe: Path) -> None:
    small = TransformersEngine(TeacherConfig(model=str(tiny_moe), batch=8, score_tokens=30))
    sizes: list[int] = []
    small.model.model.embed_tokens.register_forward_hook(lambda m, ids, out: sizes.append(ids[0].numel()))
    small.run(requests(20), SYSTEMATIC)
    assert max(sizes) <= 30
    sizes.clear()
    small.run(requests(20), SYSTEMATIC, budget=0.5)
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
    asked += [dataclasses.replace(r, prompt_id=f"g{i}", answer_ids=[5, 6, 7, 8][: i % 5]) for i, r in enumerate(asked)]
    whole, half = engine.run(asked, FULL), engine.run(asked, FULL, budget=0.01)
    assert answers(whole) == answers(half)
    np.testing.assert_allclose(whole.logprobs, half.logprobs, atol=2e-5)


def test_a_text_of_no_answer_is_its_prompt(engine: TransformersEngine) -> None:
    targets = engine.run(requests(3, max_new_tokens=0), dataclasses.replace(FULL, positions="all"))
    assert targets.lengths.tolist() == [len(r.prompt_ids) for r in requests(3)]
    assert torch.isfinite(torch.from_numpy(targets.logprobs)).all()
