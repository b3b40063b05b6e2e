"""AdamW of a worker that is alone: what DeepSpeed's ZeRO does to gradients, without the copies that it makes to share.

ZeRO keeps a flat copy of the weights and one of the gradients, for ranks to take their parts of. One rank has nobody to
share with, and in float32 its weights are their own master copy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch


class ClippedAdamW(torch.optim.AdamW):
    """AdamW in one pass over weights, gradients and moments, which also clips by the gradient's global norm.

    A step equals one of ZeRO: gradients are divided by max(1, (norm + 1e-6) / clip), and a parameter that got none has
    one of zeros. `clip` 0 leaves them as they are.
    """

    def __init__(self, parameters: Iterable[torch.nn.Parameter], *, clip: float, **settings: Any) -> None:
        super().__init__(parameters, fused=True, **settings)
        self._clip = clip
        self._global_grad_norm: torch.Tensor | None = None  # where DeepSpeed's engine looks for that before clipping
        self.grad_scale: torch.Tensor | None = None

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:
        """Update all parameters from their gradients, which are scaled in place."""
        assert closure is None
        parameters = [p for group in self.param_groups for p in group["params"]]
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        norm = torch.nn.utils.get_total_norm([p.grad for p in parameters])
        self._global_grad_norm = norm
        # torch's fused kernel divides each gradient by this as it reads it.
        self.grad_scale = ((norm + 1e-6) / self._clip).clamp_min(1) if self._clip else None
        super().step()
