"""What decides of each specialist, as a reader wants to know it: whether it passes, why, what to change; then how."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.reporting.measures.tasks import GateReport
from orchestrator.reporting.records import StudentReport
from orchestrator.reporting.report import Report
from orchestrator.reporting.verdict import capitalised
from workers.first_kl import LIGHT_MEANING

_WORDS = {"passed": "passes the gate", "failed": "fails the gate", "open": "no gate", "broken": "did not train"}
_COUNTED = {"passed": "Passed", "failed": "Failed", "broken": "Did not train", "open": "Not judged"}
_TOLD_TO = 0.05
"""How far below a share its interval should reach, for the advice on how many items to ask."""

_MOST_TIMES = 50
"""Times the items of now, beyond which it is no use to ask more."""

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


def answer_of(report: Report, cards: Sequence[Card]) -> str:
    """Which specialists pass, and what that takes."""
    if not cards:
        return "This run trains no specialists."
    states = {card.state for card in cards}
    threshold = next((s.gate.threshold for s in report.students.values() if s.gate is not None), None)
    if threshold is None and states != {"broken"}:
        return "No gate is set (`evaluate.gate`), so nothing passes or fails: these are the numbers to judge by."
    by_state = {_COUNTED[s]: [card.name for card in cards if card.state == s] for s in _COUNTED if s in states}
    passed, judged = (sum(card.state in some for card in cards) for some in (("passed",), ("passed", "failed")))
    said = " ".join(f"{word}: {', '.join(names)}." for word, names in by_state.items())
    if threshold is None:
        return said
    asked = f"it surely keeps {threshold:.0%} of its teacher's score (lower end of the 95 % interval, in each domain)"
    return f"{passed} of {judged} pass. {said} A specialist passes where {asked}."


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
        beside = {"teacher": task.teacher, "hard labels": task.hard_labels, "untrained": task.initial}
        others = ", ".join(f"{who} {s.score.value:.1%}" for who, s in beside.items() if s is not None)
        found.append((f"Right answers of {task.items:,}", others, f"{task.specialist.score.value:.1%}"))
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
    if gate is not None and not gate.passed and gate.domain in student.tasks:
        found.append(_to_pass(gate, student.tasks[gate.domain].items))
    if c is not None:
        found.append(f"{capitalised(c.advice if c.floor is None else f'{c.verdict}: {c.advice}')}.")
        if c.verdict == "data-bound":
            found[-1] += " Both are of models before the learning rate falls; what that takes off comes on top."
        if c.floor is None and c.light != "green":
            promised = capitalised(LIGHT_MEANING[c.light])
            found.append(f"Its weights began {c.kl0:.3f} nats from the teacher, {c.light}. {promised}.")
        if c.size is not None and not c.size.enough:
            found.append(f"{capitalised(c.size.advice)}.")
    if student.parrot is not None:
        found += [f"{capitalised(flag)}." for flag in student.parrot.flags]
    return found


def _to_pass(gate: GateReport, items: int) -> str:
    """What a gate that is not passed asks for. The width of an interval falls as one over the root of the items."""
    over, reach = gate.retention - gate.threshold, gate.retention - gate.retention_low
    if not math.isfinite(reach) or not math.isfinite(over):
        return f"Ask more questions than {items:,}: they do not tell what it keeps."
    many = items * (reach / over) ** 2 if over > 0 else math.inf
    if many <= _MOST_TIMES * items:
        return (
            f"Ask about {_rounded_up(many):,} questions in place of {items:,}: the share passes, and only its interval "
            "reaches below the gate."
        )
    lies = f"only {100 * over:.1f} points above" if over > 0 else f"{-100 * over:.1f} points below"
    said = f"Raise its score first: the share lies {lies} the gate, whatever number of questions is asked."
    if reach > _TOLD_TO:
        more = _rounded_up(items * (reach / _TOLD_TO) ** 2)
        said += f" {items:,} questions tell it only to {100 * reach:.0f} points; about {more:,} tell it to"
        said += f" {100 * _TOLD_TO:.0f}."
    return said


def _rounded_up(number: float) -> int:
    """To two digits."""
    step = 10 ** max(math.floor(math.log10(max(number, 1))) - 1, 0)
    return math.ceil(round(number / step, 6)) * step
