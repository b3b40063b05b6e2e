"""What decides of each specialist, as a reader wants to know it: whether it passes, why, what to change; then how."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.reporting.measures.tasks import GateReport
from orchestrator.reporting.records import StudentReport
from orchestrator.reporting.report import Report
from workers.first_kl import LIGHT_MEANING

_WORDS = {"passed": "passes the gate", "failed": "fails the gate", "open": "no gate", "broken": "did not train"}
_COUNTED = {"passed": "Pass the gate", "failed": "Fail the gate", "broken": "Did not train", "open": "Not judged"}
_LABELS = ("How near", "What it keeps", "How far to trust it", "What it costs")
"""Of a verdict's sentences."""


@dataclass(frozen=True)
class Card:
    """One specialist."""

    name: str
    state: str
    """`passed`, `failed`, `open` where no gate judges it, or `broken` where it has no final weights."""
    why: str
    """Why it passes or fails; empty where nothing judges it."""
    numbers: Sequence[tuple[str, str, str]]
    """What is measured, its unit or interval, and its value."""
    change: Sequence[str]
    """What would bring it nearer to its teacher, in sentences."""
    sentences: Sequence[tuple[str, str]]
    """Its verdict, each sentence with what it is about."""

    @property
    def word(self) -> str:
        """The state in words."""
        return _WORDS[self.state]


def cards_of(report: Report) -> list[Card]:
    """Of all specialists, in their order."""
    return [_card(report, name) for name in report.students]


def answer_of(cards: Sequence[Card]) -> str:
    """Which specialists pass, in a sentence."""
    if not cards:
        return "This run trains no specialists."
    states = {card.state for card in cards}
    if states == {"open"}:
        return "No gate is set (`evaluate.gate`), so nothing passes or fails: these are the numbers to judge by."
    by_state = {_COUNTED[s]: [card.name for card in cards if card.state == s] for s in _COUNTED if s in states}
    return " ".join(f"{said}: {', '.join(names)}." for said, names in by_state.items())


def _card(report: Report, name: str) -> Card:
    student, verdict = report.students[name], report.verdicts[name]
    state = {True: "passed", False: "failed", None: "open"}[verdict.passed]
    why = "" if student.gate is None else _why(student.gate)
    if student.error is not None:
        state, why = "broken", student.error
    said = [sentence.replace(_advised(student), "") for sentence in verdict.sentences]  # it stands by itself above
    return Card(name, state, why, _numbers(student), _change(student), list(zip(_LABELS, said, strict=True)))


def _why(gate: GateReport) -> str:
    kept = f"It keeps {gate.retention:.1%} of its teacher's score on {gate.domain}"
    asked = f"the gate asks for {gate.threshold:.1%} at the lower end of the 95 % interval"
    if not math.isfinite(gate.retention_low):
        return f"{kept}, of which the interval is not known; {asked}."
    return f"{kept}, and at least {gate.retention_low:.1%}; {asked}."


def _numbers(student: StudentReport) -> list[tuple[str, str, str]]:
    found = []
    if (own := student.heldout) is not None:
        found.append(("KL to its teacher", f"nats a token; {own.kl_low:.3f} … {own.kl_high:.3f}", f"{own.kl:.3f}"))
    task = student.tasks.get(student.domain)
    if task is not None and (kept := task.specialist.retention) is not None:
        found.append(("Part of its teacher's score", f"{kept.low:.1%} … {kept.high:.1%}", f"{kept.value:.1%}"))
    if (cost := student.cost) is not None and cost.times_fewer_flops is not None:
        found.append(
            ("Part of its teacher's FLOPs", f"{cost.parameters:,} parameters", f"1/{cost.times_fewer_flops:.3g}")
        )
    return found


def _advised(student: StudentReport) -> str:
    """How a verdict's last sentence ends where it says what to change."""
    c = student.capacity
    return "" if c is None or c.floor is None else f"; it is {c.verdict}: {c.advice}"


def _change(student: StudentReport) -> list[str]:
    found: list[str] = []
    gate, c = student.gate, student.capacity
    if gate is not None and not gate.passed and gate.retention >= gate.threshold:
        task = student.tasks.get(gate.domain)
        now = f" than {task.items:,}" if task is not None else ""
        found.append(f"Ask more items{now}: the share passes, and only its interval reaches below the gate.")
    if c is not None:
        found.append(f"{_capital(c.advice if c.floor is None else f'{c.verdict}: {c.advice}')}.")
        if c.verdict == "data-bound":
            found[-1] += " Both are of models before the learning rate falls; what that takes off comes on top."
        if c.floor is None and c.light != "green":
            promised = _capital(LIGHT_MEANING[c.light])
            found.append(f"Its weights began {c.kl0:.3f} nats from the teacher, {c.light}. {promised}.")
        if c.size is not None and not c.size.enough:
            found.append(f"{_capital(c.size.advice)}.")
    if student.parrot is not None:
        found += [f"{_capital(flag)}." for flag in student.parrot.flags]
    return found


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
