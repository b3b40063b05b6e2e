"""Body and head in turn give what the whole model gives, whatever it does after its body."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from support.comparing.tolerances import in_float64, of_capture

from workers.teacher.config import TeacherConfig
from workers.teacher.engines.loading import load_teacher
from workers.two_part_model import TwoPartModel

ARCHITECTURES: dict[str, dict[str, Any]] = {
    "qwen3_moe": {},
    "granite": {"logits_scaling": 3.0},
    "gemma2": {"final_logit_softcapping": 0.05},
    "cohere": {"logit_scale": 0.3},
    "gpt2": {},
    "phi": {},  # its head has a bias
}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_parts_give_the_logits_of_the_whole(architecture: str, save_model: Callable[..., Path]) -> None:
    folder = save_model(architecture, **ARCHITECTURES[architecture])
    model = TwoPartModel(in_float64(load_teacher(TeacherConfig(model=str(folder)))), "cpu")
    assert model.parted
    if getattr(model.model.lm_head, "bias", None) is not None:
        torch.nn.init.normal_(model.model.lm_head.bias)
    ids = torch.randint(3, 300, (3, 7), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        whole = model.model(input_ids=ids).logits.flatten(0, 1)
    hidden = model.body(ids, torch.ones_like(ids)).flatten(0, 1)
    parts = [logits for _, logits in model.logits_by_chunk(hidden, 1500)]  # 5 positions at once
    assert [len(p) for p in parts] == [5, 5, 5, 5, 1]
    torch.testing.assert_close(torch.cat(parts), whole, rtol=0, atol=of_capture(whole.abs().max()))


def test_a_model_that_cannot_be_parted_runs_whole(save_model: Callable[..., Path]) -> None:
    """One whose head looks at the shape of the batch: on chunks of positions it would give other logits."""
    loaded = in_float64(load_teacher(TeacherConfig(model=str(save_model("qwen3")))))
    head = loaded.lm_head.forward
    loaded.lm_head.forward = lambda h: head(h) + (1.0 if h.shape[0] == 2 else 0.0)
    model = TwoPartModel(loaded, "cpu")
    assert not model.parted
    ids = torch.tensor([[4, 5, 6], [7, 8, 9]])
    with torch.no_grad():
        whole = loaded(input_ids=ids).logits
    hidden = model.body(ids, torch.ones_like(ids))
    found = model.head(hidden.flatten(0, 1))
    torch.testing.assert_close(found, whole.flatten(0, 1), rtol=0, atol=of_capture(whole.abs().max()))


def test_steps_are_counted(save_model: Callable[..., Path]) -> None:
    model = TwoPartModel(load_teacher(TeacherConfig(model=str(save_model("qwen3")))), "cpu")
    before, ids = model.steps, torch.tensor([[4, 5]])
    model.body(ids, torch.ones_like(ids))
    model.head(torch.zeros(1, model.model.config.hidden_size))
    assert model.steps == before + 1
