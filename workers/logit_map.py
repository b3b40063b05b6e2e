"""What an architecture does to the product of its last hidden state and its LM head. Teachers and students share it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class LogitMap:
    """Logits are cap * tanh(scale * z / cap), of the product z of hidden state and head; scale * z without a cap."""

    scale: float = 1.0
    cap: float | None = None

    def apply_(self, z_TV: Tensor) -> Tensor | None:
        """Change raw logits in place; returns the derivative where it is not just `scale`."""
        if self.scale != 1:
            z_TV.mul_(self.scale)
        if self.cap is None:
            return None
        slope = z_TV.div_(self.cap).tanh_().square().neg_().add_(1)
        z_TV.mul_(self.cap)
        return slope


def logit_map(config: Any) -> LogitMap:
    """What a transformers configuration says that happens to logits: Cohere multiplies them (`logit_scale`), Granite
    divides them (`logits_scaling`), Gemma caps them (`final_logit_softcapping`)."""
    multiplied = getattr(config, "logit_scale", None) or 1.0
    divided = getattr(config, "logits_scaling", None) or 1.0
    return LogitMap(multiplied / divided, getattr(config, "final_logit_softcapping", None) or None)
