"""Where a teacher's weights go when they are loaded, and how much memory is left to its texts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from workers.teacher.config import TeacherConfig
from workers.teacher.engines.loading import cache_memory, load_teacher


@pytest.mark.parametrize("architecture", ["qwen3_moe", "qwen3_next"])
def test_weights_are_read_onto_the_device(architecture: str, save_model: Callable[..., Path]) -> None:
    """Onto one without memory, to which nothing can be copied from elsewhere unseen: buffers, too."""
    model = load_teacher(TeacherConfig(model=str(save_model(architecture)), dtype="bfloat16"), device="meta")
    assert {t.device.type for t in (*model.parameters(), *model.buffers())} == {"meta"}
    assert {p.dtype for p in model.parameters()} <= {torch.bfloat16, torch.float32}


def test_texts_get_what_is_configured_or_three_quarters_of_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (40 * 10**9, 80 * 10**9))
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    assert cache_memory(None, "cuda") == 30 * 10**9
    assert cache_memory(10**9, "cuda") == cache_memory(10**9, "cpu") == 10**9
    assert cache_memory(None, "cpu") is None
