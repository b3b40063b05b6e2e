"""Bins that are joined for a picture hold what the bins held."""

from __future__ import annotations

import numpy as np
import pytest

from orchestrator.render.page.pictures import _LEAST_TOKENS, _joined
from orchestrator.reporting.scores import CurvePoint

_OTHERS = ("reverse_kl", "acceptance", "top1_agreement", "nll", "confidence", "teacher_at_top", "hit")


def point(at: float, tokens: int, kl: float) -> CurvePoint:
    return CurvePoint(at=at, tokens=tokens, kl=kl, **dict.fromkeys(_OTHERS, 0.0))


@pytest.mark.parametrize("seed", range(8))
def test_no_token_is_lost_and_no_point_is_of_few(seed: int) -> None:
    rng = np.random.default_rng(seed)
    points = [point(i / 4, int(rng.integers(1, 60)), float(rng.random())) for i in range(20)]
    found = _joined(points)
    assert sum(p.tokens for p in found) == sum(p.tokens for p in points)
    assert sum(p.tokens * p.kl for p in found) == pytest.approx(sum(p.tokens * p.kl for p in points))
    assert all(p.tokens >= _LEAST_TOKENS for p in found) and found[0].at == 0
    assert [p.at for p in found] == sorted(p.at for p in found)


def test_few_tokens_are_one_point_and_none_are_none() -> None:
    assert [p.tokens for p in _joined([point(0, 3, 1.0), point(1, 4, 2.0)])] == [7]
    assert _joined([]) == []
