"""One contract for every family of models: what an engine makes does not depend on how it is run.

Over two ranks: test_expert_parallel.py.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from families import DENSE, MIXTURES, WORDS

from workers.targets.arrays import UnitTargets
from workers.teacher.config import TeacherConfig
from workers.teacher.engine import CaptureSpec, TextRequest
from workers.teacher.transformers_engine import TransformersEngine

FAMILIES = [*MIXTURES, *DENSE]
FULL = CaptureSpec("full", 21, "answer", "float32", WORDS, 11)


@pytest.fixture(scope="module", params=FAMILIES)
def model(request: pytest.FixtureRequest, save_model: Callable[..., Path]) -> Path:
    return save_model(request.param)


@pytest.fixture(scope="module")
def engine(model: Path) -> TransformersEngine:
    """Four slots, so that texts join and leave."""
    return TransformersEngine(TeacherConfig(model=str(model), batch=4))


def requests(n: int = 14, **fields: Any) -> list[TextRequest]:
    """Prompts of 1 to 12 tokens, to be answered in 1 to 16: longer than the windows of those that have one."""
    rng = np.random.default_rng(3)
    sizes = rng.integers(1, [13, 17], (n, 2)).tolist()
    return [
        TextRequest(f"p{i}", 0, rng.integers(3, WORDS, p).tolist(), None, **{"max_new_tokens": m, **fields})
        for i, (p, m) in enumerate(sizes)
    ]


def answers(targets: UnitTargets) -> list[list[int]]:
    split = np.split(targets.tokens, np.cumsum(targets.lengths)[:-1])
    return [t[s:].tolist() for t, s in zip(split, targets.starts, strict=True)]


def scored(asked: list[TextRequest], made: UnitTargets) -> list[TextRequest]:
    """The same texts as given ones."""
    return [dataclasses.replace(r, answer_ids=a) for r, a in zip(asked, answers(made), strict=True)]


@pytest.mark.parametrize("temperature", [1.0, 0.0])
def test_a_text_is_the_same_in_any_company(temperature: float, engine: TransformersEngine) -> None:
    """In slots with others that come and go, against alone: padding, windows and positions of each family."""
    asked = requests(temperature=temperature)
    together = engine.run(asked, FULL)
    alone = UnitTargets.join([engine.run([r], FULL) for r in asked])
    assert answers(together) == answers(alone)
    np.testing.assert_allclose(together.logprobs, alone.logprobs, atol=3e-5)
    assert together.logprobs.reshape(-1, WORDS).std(-1).mean() > 0.1  # distributions, not noise about a uniform one


@pytest.mark.parametrize("dtype, median_bound, p99_bound", [("float32", 1e-11, 1e-9), ("bfloat16", 1e-3, 0.1)])
def test_what_is_captured_while_generating_is_what_scoring_finds(
    dtype: Any, median_bound: float, p99_bound: float, model: Path, record_property: Callable[..., None]
) -> None:
    """By the KL between both: rounding in float32; in bfloat16 what its eight bits leave, and where two experts are
    nearly as good, the other one."""
    engine = TransformersEngine(TeacherConfig(model=str(model), batch=4, dtype=dtype))
    asked = requests()
    made = engine.run(asked, FULL)
    again = engine.run(scored(asked, made), FULL)
    p_TV, q_TV = (t.logprobs.reshape(-1, WORDS).astype(np.float64) for t in (made, again))
    # With - p + q, which sum to nothing, each term is positive: rounding cannot hide in what cancels.
    kl_T = (np.exp(p_TV) * (p_TV - q_TV) - np.exp(p_TV) + np.exp(q_TV)).sum(-1)
    median, p99 = float(np.median(kl_T)), float(np.quantile(kl_T, 0.99))
    record_property("kl", f"{model.name} {dtype}: median {median:.2g}, p99 {p99:.2g}")
    print(f"\n{model.name} {dtype}: KL median {median:.2g}, p99 {p99:.2g}")
    assert median <= median_bound and p99 <= p99_bound
    assert engine.describe()["dtype"] == dtype
