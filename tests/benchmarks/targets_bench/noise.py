"""The squared error of each scheme in closed form, at any number of draws, from exact distributions.

An id of probability below 1/64 is drawn at most once by every number of draws looked at, so sums of t and t^2 over
such ids are all that is needed of them. Formulas: workers/teacher/sampling/schemes.py.
"""

from __future__ import annotations

import torch

from targets_bench.distributions import Distributions
from workers.targets.encoding.schema import EXACT_STEPS

_MOST = 64
_CHUNK = 512


class Noise:
    """Mean of E|w - t|^2 over all positions."""

    def __init__(self, distributions: Distributions) -> None:
        self._T = len(distributions.tokens_T)
        heads, self._tail, self._tail_squares, self.squares, self.entropy = [], 0.0, 0.0, 0.0, 0.0
        for i in range(0, self._T, _CHUNK):
            logp_BV = distributions.teacher_logits(slice(i, i + _CHUNK)).float().log_softmax(-1)
            t_BV = logp_BV.exp()
            self.entropy -= float((t_BV * logp_BV).sum(-1).double().sum()) / self._T
            heads.append(t_BV[t_BV >= 1 / _MOST].double())
            tail_BV = t_BV.masked_fill_(t_BV >= 1 / _MOST, 0)
            self._tail += float(tail_BV.sum(-1).double().sum())
            self._tail_squares += float(tail_BV.square_().sum(-1).double().sum())
        self._head_E = torch.cat(heads)
        self.squares = self._tail_squares + float(self._head_E.square().sum())

    def of(self, scheme: str, draws: int) -> float:
        """The scheme's mean squared error at some number of draws."""
        if scheme == "multinomial":
            return (self._T - self.squares) / draws / self._T
        small = self._tail / draws - self._tail_squares
        if scheme == "systematic":
            return (small + float(_rounding(self._head_E * draws).sum()) / draws**2) / self._T
        assert scheme == "threshold"
        exact_E = self._head_E >= 1 / draws
        below_E = self._head_E[~exact_E]
        rounded_E = _rounding(self._head_E[exact_E] * draws * EXACT_STEPS) / (draws * EXACT_STEPS) ** 2
        return (small + float((below_E * (1 / draws - below_E)).sum() + rounded_E.sum())) / self._T

    def systematic_entries(self, draws: int) -> float:
        """Mean number of ids that systematic sampling keeps."""
        large_E = self._head_E >= 1 / draws
        return (int(large_E.sum()) + draws * (self._tail + float(self._head_E[~large_E].sum()))) / self._T

    def fewest_draws(self, scheme: str, most: float) -> int:
        """The smallest number of draws at which the squared error is at most `most`."""
        for draws in range(1, _MOST + 1):
            if self.of(scheme, draws) <= most:
                return draws
        raise ValueError(f"{scheme}: {_MOST} draws are not enough for a squared error of {most}")


def _rounding(x_E: torch.Tensor) -> torch.Tensor:
    fraction_E = x_E % 1
    return fraction_E * (1 - fraction_E)
