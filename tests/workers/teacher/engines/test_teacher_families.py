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
import torch
from support.comparing.borders import same_texts
from support.comparing.tolerances import in_float64, of_capture, of_divergence, of_logits, usual_divergence
from support.model_families import FAMILIES, HYBRIDS, WORDS, as_parameters

from workers.targets.encoding.arrays import UnitTargets
from workers.teacher.config import TeacherConfig
from workers.teacher.engine import CaptureSpec, TextRequest
from workers.teacher.engines.transformers_engine import TransformersEngine

FULL = CaptureSpec("full", 21, "answer", "float32", WORDS, 11)


@pytest.fixture(scope="module", params=as_parameters(FAMILIES))
def model(request: pytest.FixtureRequest, save_model: Callable[..., Path]) -> Path:
    return save_model(request.param)


@pytest.fixture(scope="module")
def engine(model: Path) -> TransformersEngine:
    """Four slots, so that texts join and leave; in float64, so that it is they that would change a text."""
    made = TransformersEngine(TeacherConfig(model=str(model), batch=4))
    in_float64(made.model)
    return made


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
    return [dataclasses.replace(r, answer_token_ids=a) for r, a in zip(asked, answers(made), strict=True)]


@pytest.mark.parametrize("temperature", [1.0, 0.0])
def test_a_text_is_the_same_in_any_company(temperature: float, engine: TransformersEngine) -> None:
    """In slots with others that come and go, against alone: padding, windows and positions of each family."""
    asked = requests(temperature=temperature)
    together = engine.run(asked, FULL)
    alone = UnitTargets.join([engine.run([r], FULL) for r in asked])
    # Layers that keep states sum in float32, whatever the type of the model.
    tolerance_of = of_logits if engine.model.config.model_type in HYBRIDS else of_capture
    tolerance = tolerance_of(np.abs(alone.logprobs).max())
    both = same_texts(together, alone, asked, FULL, tolerance)
    mine_TV, other_TV = (t.logprobs.reshape(-1, WORDS)[seen] for t, seen in zip((together, alone), both, strict=True))
    np.testing.assert_allclose(mine_TV, other_TV, rtol=0, atol=tolerance)
    assert mine_TV.std(-1).mean() > 0.1  # distributions, not noise about a uniform one


def kl_T(p: UnitTargets, q: UnitTargets) -> np.ndarray:
    """KL of each position. With - p + q, which sum to nothing, each term is positive: rounding cannot hide in what
    cancels."""
    p_TV, q_TV = (t.logprobs.reshape(-1, WORDS).astype(np.float64) for t in (p, q))
    return (np.exp(p_TV) * (p_TV - q_TV) - np.exp(p_TV) + np.exp(q_TV)).sum(-1)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_what_is_captured_while_generating_is_what_scoring_finds(
    dtype: Any, model: Path, record_property: Callable[..., None]
) -> None:
    """Both are near to the same weights in float64, and generating is as near as scoring."""
    engine = TransformersEngine(TeacherConfig(model=str(model), batch=4, dtype=dtype))
    assert engine.describe()["dtype"] == dtype
    asked = requests()
    made = engine.run(asked, FULL)
    again = engine.run(scored(asked, made), FULL)
    in_float64(engine.model)
    exact = engine.run(scored(asked, made), FULL)
    made_T, again_T = kl_T(made, exact), kl_T(again, exact)
    typical = [float(np.median(kl)) for kl in (made_T, again_T)]
    record_property("kl", f"{model.name} {dtype}: medians {typical[0]:.2g} and {typical[1]:.2g}")
    spread = float(exact.logprobs.reshape(-1, WORDS).std(-1).mean())
    assert max(typical) <= usual_divergence(spread, dtype=getattr(torch, dtype))
    assert typical[0] <= 16 * typical[1]  # other kernels' errors may be larger, but not four times
    if dtype == "float32":  # in bfloat16 one position may go to another expert, who is nearly as good
        assert max(made_T.max(), again_T.max()) <= of_divergence(of_logits(np.abs(exact.logprobs).max()))
