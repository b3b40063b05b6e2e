"""AdamW of a worker that is alone, against torch's own with its gradient clipped first."""

from __future__ import annotations

import pytest
import torch
from support.comparing.tolerances import of_sums

from workers.student.training.adamw import ClippedAdamW

SETTINGS = {"lr": 1e-2, "betas": (0.8, 0.9), "weight_decay": 0.1}


def parameters() -> list[torch.nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [torch.nn.Parameter(torch.randn(*shape, generator=generator)) for shape in ((5, 3), (7,), (2, 2))]


@pytest.mark.parametrize("clip", [0.3, 100.0, 0.0])
def test_steps_are_those_of_torch_after_clipping(clip: float) -> None:
    ours, theirs = parameters(), parameters()
    mine, plain = ClippedAdamW(ours, clip=clip, **SETTINGS), torch.optim.AdamW(theirs, **SETTINGS)
    generator = torch.Generator().manual_seed(1)
    for _ in range(4):
        for a, b in zip(ours, theirs, strict=True):
            a.grad = torch.randn(a.shape, generator=generator)
            b.grad = a.grad.clone()
        norm = torch.nn.utils.clip_grad_norm_(theirs, clip or float("inf"))
        mine.step()
        plain.step()
        assert mine._global_grad_norm is not None
        assert float(mine._global_grad_norm) == pytest.approx(float(norm), rel=of_sums(26))
    for a, b in zip(ours, theirs, strict=True):
        # The norm scales every gradient; a step is at most the rate, and the weights are at most 3.
        torch.testing.assert_close(a, b, rtol=0, atol=4 * (SETTINGS["lr"] * of_sums(26) + of_sums(3) * 3))


def test_a_parameter_without_a_gradient_has_one_of_zeros_as_in_zero() -> None:
    """Its weight decays and its moments count the step, so that all have state to be saved."""
    ours, theirs = parameters(), parameters()
    mine, plain = ClippedAdamW(ours, clip=1.0, **SETTINGS), torch.optim.AdamW(theirs, **SETTINGS)
    for p in (*ours[:2], *theirs):
        p.grad = torch.zeros_like(p)
    mine.step()
    plain.step()
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=of_sums(3), atol=0)
        assert mine.state[a].keys() == plain.state[b].keys()


def test_a_gradient_that_is_no_number_shows_in_the_norm() -> None:
    ours = parameters()
    for p in ours:
        p.grad = torch.full_like(p, float("inf"))
    optimizer = ClippedAdamW(ours, clip=1.0, **SETTINGS)
    optimizer.step()
    assert optimizer._global_grad_norm == float("inf")
