"""What is known of a model's cache: what its layers keep, and whether padding reaches it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.comparing.borders import same_texts
from support.comparing.tolerances import in_float64, of_logits

from workers.targets.encoding.arrays import UnitTargets
from workers.teacher.config import TeacherConfig
from workers.teacher.engine import CaptureSpec, TextRequest
from workers.teacher.engines.transformers_engine import TransformersEngine
from workers.teacher.generation.layout import CacheLayout
from workers.two_part_model import TwoPartModel

V = 300
FULL = CaptureSpec("full", 21, "answer", "float32", V, 11)
TINY: dict[str, dict[str, Any]] = {
    "falcon_h1": {"mamba_d_ssm": 64, "mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 16},
    "minimax": {"num_local_experts": 4, "num_experts_per_tok": 2},
}


def biased(model: Any) -> Any:
    """The model with biases that a random one has not, those of its convolutions' layers too."""
    torch.manual_seed(1)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith("in_proj.bias"):
                weight.normal_()
    return model


@pytest.mark.parametrize("family", ["qwen3", "gpt_oss", "lfm2_moe", "qwen3_next"])
def test_padding_reaches_nothing(family: str, tiny_model: Callable[..., Any]) -> None:
    layout = CacheLayout.of(TwoPartModel(tiny_model(family), "cpu"))
    assert layout.why_not is None and layout.pads


def test_padding_that_reaches_a_state_is_found(tiny_model: Callable[..., Any]) -> None:
    layout = CacheLayout.of(TwoPartModel(biased(tiny_model("lfm2_moe", conv_bias=True)), "cpu"))
    assert layout.why_not is None and not layout.pads


@pytest.mark.parametrize(
    "family, said",
    [("falcon_h1", "keep a LinearAttentionAndFullAttentionLayer"), ("minimax", "in a cache of its own")],
)
def test_what_slots_cannot_hold_is_refused_where_answers_are_asked_for(
    family: str, said: str, save_model: Callable[..., Path]
) -> None:
    """And given text is scored."""
    engine = TransformersEngine(TeacherConfig(model=str(save_model(family, **TINY[family]))))
    given = engine.run([TextRequest("p", 0, [3, 4, 5], [6, 7])], FULL)
    assert np.isfinite(given.logprobs).all()
    with pytest.raises(ValueError, match=rf"teacher\.model: {family} .*{said}.*take engine vllm"):
        engine.run([TextRequest("p", 0, [3, 4, 5], None, max_new_tokens=2)], FULL)


def test_where_padding_would_reach_a_text_only_like_lengths_are_prefilled_together(
    save_model: Callable[..., Path], tiny_model: Callable[..., Any]
) -> None:
    folder = save_model("lfm2_moe", conv_bias=True)
    biased(tiny_model("lfm2_moe", conv_bias=True)).save_pretrained(folder)
    engine = TransformersEngine(TeacherConfig(model=str(folder), batch=4))
    in_float64(engine.model)
    shapes: list[tuple[int, int]] = []
    engine.model.model.embed_tokens.register_forward_hook(lambda m, ids, out: shapes.append(tuple(ids[0].shape)))
    rng = np.random.default_rng(3)
    asked = [
        TextRequest(f"p{i}", 0, rng.integers(3, V, 2 + i % 3).tolist(), None, max_new_tokens=4 + i) for i in range(9)
    ]
    asked += [TextRequest(f"q{i}", 0, rng.integers(3, V, 6).tolist(), None, max_new_tokens=20) for i in range(2)]
    together = engine.run(asked, FULL)
    assert (2, 6) in shapes  # of one length, and so together
    alone = UnitTargets.join([engine.run([r], FULL) for r in asked])
    tolerance = of_logits(np.abs(alone.logprobs).max())
    both = same_texts(together, alone, asked, FULL, tolerance)
    found = [t.logprobs.reshape(-1, V)[seen] for t, seen in zip((together, alone), both, strict=True)]
    np.testing.assert_allclose(*found, rtol=0, atol=tolerance)
