"""Events as workers tell them."""

from __future__ import annotations

from typing import Any

from workers.channels.events import StudentStep, UnitCommitted


def unit(number: int, **more: Any) -> UnitCommitted:
    numbers = dict.fromkeys(("rows", "tokens", "targets", "bytes", "rejected"), 10)
    return UnitCommitted.model_validate(
        {"split": "train", "unit": number, "won": True, "started": 0.0, "finished": 2.0} | numbers | more
    )


def step(tokens: int, loss: float = 2.0, *, student: str = "medical", time: float = 1.0) -> StudentStep:
    floats = {"grad_norm": 1.0, "lr": 1e-3, "waited": 0.0}
    return StudentStep(student=student, step=1, tokens=tokens, budget=100, loss=loss, seconds=[], time=time, **floats)
