"""A student that ends worse than it began is a failure, and one that ends no worse is not."""

from __future__ import annotations

import pytest

from workers.student.config import LossConfig, TrainConfig
from workers.student.training.learned import NothingLearned, check_learned, comparable


@pytest.mark.parametrize(("before", "after"), [(4.2, 1.0), (4.2, 4.2), (4.2, 4.21), (0.0, 5e-4), (-1e-4, 1e-4)])
def test_a_loss_that_fell_or_stayed(before: float, after: float) -> None:
    check_learned("legal", before, after, TrainConfig())


@pytest.mark.parametrize(("before", "after"), [(4.2, 4.3), (1.304, 1.373), (0.0, 0.01), (0.5, float("nan"))])
def test_a_loss_that_rose_names_the_rate(before: float, after: float) -> None:
    with pytest.raises(NothingLearned, match=r"legal: .*train\.lr \(0\.5 now\)"):
        check_learned("legal", before, after, TrainConfig(lr=0.5))


def test_losses_whose_weights_change_cannot_be_compared() -> None:
    assert comparable(LossConfig()) and comparable(LossConfig(preset="sft"))
    assert not comparable(LossConfig(kl=1, kl_end=0, ce_end=1))
