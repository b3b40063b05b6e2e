"""Attention of packed texts: each text sees itself alone, whichever way it is computed, and nothing waits for a GPU."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from workers.student.models import packed_attention as module
from workers.student.models.packed_attention import arguments, kernel_takes, packed_attention

LENGTHS = (5, 1, 9, 3)
HEADS, GROUPS, SIZE = 4, 2, 16
WINDOWS = [None, 1, 3, 20]


def states(device: str = "cpu", dtype: torch.dtype = torch.float32, groups: int = GROUPS) -> list[Tensor]:
    """Queries, keys and values of all texts [1, heads, P, d], which want gradients."""
    make = torch.Generator().manual_seed(0)
    sizes = [(1, heads, sum(LENGTHS), SIZE) for heads in (HEADS, groups, groups)]
    return [torch.randn(size, generator=make).to(device, dtype).requires_grad_() for size in sizes]


def attend(given: list[Tensor], **more: Any) -> Tensor:
    """[1, P, H, d]"""
    return packed_attention(torch.nn.Module(), *given, **arguments(LENGTHS, given[0].device), **more)[0]


def by_hand(given: list[Tensor], window: int | None, scale: float) -> Tensor:
    """The same in float64, text by text, from the definition."""
    query, key, value = (x[0].double() for x in given)
    key, value = (x.repeat_interleave(HEADS // x.shape[0], 0) for x in (key, value))
    found, first = [], 0
    for n in LENGTHS:
        own = slice(first, first := first + n)
        scores = query[:, own] @ key[:, own].transpose(1, 2) * scale
        back = torch.arange(n)[:, None] - torch.arange(n)
        seen = (back >= 0) & (back < (window or n))
        found.append(scores.masked_fill(~seen, -torch.inf).softmax(-1) @ value[:, own])
    return torch.cat(found, 1).transpose(0, 1)[None]


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("groups", [HEADS, GROUPS, 1])
def test_texts_see_themselves_alone(groups: int, window: int | None) -> None:
    given = states(groups=groups)
    found = attend(given, scaling=0.3, sliding_window=window)
    torch.testing.assert_close(found.double(), by_hand(given, window, 0.3), atol=1e-5, rtol=1e-5)


def varlen_as_documented(
    query_PHd: Tensor, key_PGd: Tensor, value_PGd: Tensor, ends: Tensor, _ends: Tensor, longest: int, _longest: int, *,
    scale: float, window_size: tuple[int, int], enable_gqa: bool,
) -> Tensor:  # fmt: skip
    """What torch documents of its kernel: `(W, 0)` is a causal window of W tokens back, -1 all of them."""
    back, ahead = window_size
    assert ahead == 0 and longest == max(LENGTHS) and ends.tolist() == [0, 5, 6, 15, 18]
    assert enable_gqa or query_PHd.shape[1] == key_PGd.shape[1]
    given = [x.transpose(0, 1)[None] for x in (query_PHd, key_PGd, value_PGd)]
    return by_hand(given, None if back < 0 else back + 1, scale)[0].float()


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("groups", [HEADS, GROUPS])
def test_what_the_kernel_is_given(monkeypatch: pytest.MonkeyPatch, groups: int, window: int | None) -> None:
    given = states(groups=groups)
    alone = attend(given, scaling=0.3, sliding_window=window)
    monkeypatch.setattr(module, "kernel_takes", lambda query: True)
    monkeypatch.setattr(module.varlen, "varlen_attn", varlen_as_documented)
    together = attend(given, scaling=0.3, sliding_window=window)
    assert together.shape == alone.shape
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("window", [None, 3])
def test_nothing_is_read_off_the_device(window: int | None) -> None:
    """Numbers of meta tensors cannot be read at all."""
    given = states("meta")
    assert attend(given, sliding_window=window).shape == (1, sum(LENGTHS), HEADS, SIZE)


def test_what_it_does_not_know_is_refused() -> None:
    given = states()
    for more in ({"softcap": 30.0}, {"s_aux": torch.zeros(HEADS)}, {"attention_mask": torch.ones(1)}):
        with pytest.raises(NotImplementedError):
            attend(given, **more)


@pytest.mark.gpu
@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("groups", [HEADS, GROUPS, 1])
def test_the_kernel_on_a_gpu(monkeypatch: pytest.MonkeyPatch, groups: int, window: int | None) -> None:
    """Outputs and gradients as text by text, within the rounding of bfloat16 (8 bits) of sums of up to nine numbers."""
    results = []
    for kernel in (True, False):
        given = states("cuda", torch.bfloat16, groups)
        assert kernel_takes(given[0])
        if not kernel:
            monkeypatch.setattr(module, "kernel_takes", lambda query: False)
        found = attend(given, scaling=0.3, sliding_window=window)
        found.float().square().sum().backward()
        results.append([found, *(x.grad for x in given)])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, atol=4 * 2**-8 * float(other.abs().max()), rtol=0)
