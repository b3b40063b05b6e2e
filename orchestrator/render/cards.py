"""What decides of a specialist, in its least form: whether it passes, three numbers, four sentences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from orchestrator.reporting.report import Report


@dataclass(frozen=True)
class Card:
    """Of one specialist."""

    name: str
    state: Literal["passed", "failed", "open"]
    """`open` where no gate judges it."""
    word: str
    numbers: Sequence[tuple[str, str, str]]
    """What is measured, its value, and its interval or what it is beside."""
    sentences: Sequence[str]


def card_of(report: Report, name: str) -> Card:
    """A specialist's card."""
    student, verdict = report.students[name], report.verdicts[name]
    states: dict[bool | None, Literal["passed", "failed", "open"]] = {True: "passed", False: "failed", None: "open"}
    state = states[verdict.passed]
    word = {"passed": "passes the gate", "failed": "fails the gate", "open": "no gate"}[state]
    if student.error is not None:
        state, word = "failed", "did not train"
    numbers = []
    if (own := student.heldout) is not None:
        numbers.append(("KL to the teacher", f"{own.kl:.3f}", f"{own.kl_low:.3f} … {own.kl_high:.3f} nats a token"))
    task = student.tasks.get(student.domain)
    if task is not None and (kept := task.specialist.retention) is not None:
        numbers.append(("of its teacher's score", f"{kept.value:.1%}", f"{kept.low:.1%} … {kept.high:.1%}"))
    if student.cost is not None and student.cost.times_fewer_flops is not None:
        beside = f"{student.cost.parameters:,} parameters"
        numbers.append(("of its teacher's FLOPs", f"1/{student.cost.times_fewer_flops:.3g}", beside))
    return Card(name, state, word, numbers, verdict.sentences)
