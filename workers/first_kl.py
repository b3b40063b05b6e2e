"""How far a student is from its teacher before it learns anything, and what that promises. No torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from pydantic import Field, model_validator

from cluster.settings import Settings

Light = Literal["green", "amber", "red"]

LIGHT_MEANING: dict[Light, str] = {
    "green": "near enough to learn from its own text too",
    "amber": "nearer than most: learn from the teacher's text first",
    "red": "far: it takes tokens of the teacher's text before anything else helps; a base that is nearer (of the "
    "teacher's family, larger, or with fewer layers dropped) needs fewer",
}
"""What a light promises, in words."""


class FirstKlConfig(Settings):
    """What the KL before training is held to promise, in nats a token. On-policy distillation was seen to go well from
    .04 and to fail from .19; the thresholds between are ours."""

    green: float = Field(default=0.05, gt=0)
    """Below it a student is near its teacher."""

    red: float = Field(default=0.15, gt=0)
    """Above it a student is far from its teacher; between both it is amber."""

    @model_validator(mode="after")
    def _in_order(self) -> FirstKlConfig:
        if self.green > self.red:
            raise ValueError(f"first_kl: green {self.green:g} is above red {self.red:g}; give green the smaller number")
        return self


def kl0_light(kl0: float, green: float, red: float) -> Light:
    """Below `green`, above `red`, or between. Raises ValueError for a KL that is not finite."""
    if not math.isfinite(kl0):
        raise ValueError(f"a KL before training of {kl0}")
    return "green" if kl0 < green else "red" if kl0 > red else "amber"


@dataclass(frozen=True)
class FirstKl:
    """KL(teacher ‖ student) of the first global batch before the first step: a mean over its target tokens, nats."""

    kl: float
    tokens: int

    def sentence(self, green: float, red: float) -> str:
        """What it is, and what it promises."""
        light = kl0_light(self.kl, green, red)
        return (
            f"KL to its teacher before training {self.kl:.3f} nats a token (first batch, {self.tokens:,} tokens), "
            f"{light}: {LIGHT_MEANING[light]}"
        )
