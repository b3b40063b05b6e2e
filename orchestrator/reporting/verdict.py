"""What a specialist is worth, in four sentences: how near it is, what it keeps, whether it can be trusted, what it
costs. Of numbers that the report has; what was not measured is said to be so, with the setting that measures it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from orchestrator.config.students import GENERALIST
from orchestrator.reporting.records import StudentReport
from orchestrator.reporting.scores import Difference, Interval, Score

_ERRORS = 5
"""Items that the teacher has wrong, of which fewer say nothing of whose errors a specialist has."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Of one specialist."""

    passed: bool | None
    """Whether it passes the gate; None where there is none, or nothing that it could be judged by."""
    near: str
    """How near to its teacher it is, beside what it began as and its control."""
    keeps: str
    """What of its teacher's scores on tasks it keeps."""
    trust: str
    """Whether it is surer than it may be, has rules or words, and gives its teacher's errors."""
    cost: str
    """What it costs beside its teacher, and whether more tokens or more parameters would bring it nearer."""

    @property
    def sentences(self) -> tuple[str, str, str, str]:
        return self.near, self.keeps, self.trust, self.cost


def verdict_of(name: str, student: StudentReport, difference: Difference | None) -> Verdict:
    """`difference` is that to the generalist, on the specialist's own domain."""
    gate = student.gate
    return Verdict(
        passed=None if gate is None else gate.passed,
        near=f"{name} {_near(student, difference)}.",
        keeps=f"It {_keeps(student)}.",
        trust=f"{_trust(student)}.",
        cost=f"It {_cost(student)}.",
    )


def _near(student: StudentReport, difference: Difference | None) -> str:
    own = student.heldout
    if own is None:
        return "was not scored" if student.error is None else "failed"
    said = f"is {own.kl:.3f} nats a token from its teacher on {own.prompts:,} held-out prompts ({_bounds(own)})"
    beside = []
    if student.initial is not None:
        gone = 1 - own.kl / student.initial.kl if student.initial.kl > 0 else math.nan
        began = f"before training it was {student.initial.kl:.3f}"
        beside.append(f"{began}, of which {gone:.1%} is gone" if gone >= 0 else began)
    if student.hard_labels is not None:
        own_then = student.at_control_tokens
        then = "" if own_then is None else f" where it was itself {own_then.kl:.3f} after as many tokens"
        control = f"its control of hard labels, fine-tuned on the same text, is at {student.hard_labels.kl:.3f}{then}"
        beside.append(control if student.difference is None else f"{control}, {_apart(student.difference)}")
    if difference is not None:
        beside.append(f"a generalist of its size is {_apart(difference)}")
    return "; ".join([said, *beside])


def _apart(difference: Difference) -> str:
    """How far another model is from where the specialist is, by the specialist's difference to it."""
    if difference.low <= 0 <= difference.high:
        return f"as near, as far as can be told ({-difference.high:+.3f} … {-difference.low:+.3f} nats)"
    ends = sorted((abs(difference.low), abs(difference.high)))
    word = "farther" if difference.kl < 0 else "nearer"
    return f"{abs(difference.kl):.3f} nats {word} ({ends[0]:.3f} … {ends[1]:.3f})"


def _bounds(score: Score) -> str:
    return f"{score.kl_low:.3f} … {score.kl_high:.3f}"


def _keeps(student: StudentReport) -> str:
    task = student.tasks.get(student.domain)
    if task is None:
        return "was asked no questions with known answers, which `evaluate.tasks` gives"
    kept, corrected = task.specialist.retention, task.specialist.corrected_retention
    said = f"answers {task.specialist.score.value:.1%} of {task.items:,} items right, its teacher "
    said += f"{task.teacher.score.value:.1%}"
    if task.chance > 0:
        said += f" and guessing {task.chance:.1%}"
    if kept is not None and math.isfinite(kept.value):
        said += f": it keeps {kept.percent}"
    if task.chance > 0 and corrected is not None and math.isfinite(corrected.value):
        said += f", less guessing {corrected.percent}"
    if (gate := student.gate) is not None:
        verb = "passes" if gate.passed else "FAILS"
        said += f"; it {verb} the gate, {gate.threshold:.0%} at the lower end on each domain"
    return said


def _trust(student: StudentReport) -> str:
    parts = [_sure(student)]
    if (parrot := student.parrot) is not None and math.isfinite(parrot.index):
        found = Interval(value=parrot.index, low=parrot.low, high=parrot.high)
        tells = "it leans on words where its teacher has the rule" if parrot.low > 0 else "no sign of a parrot"
        parts.append(f"edits of questions cost it {_points(found)} more than its teacher: {tells}")
    errors = student.inheritance
    if errors is not None and errors.specialist is not None and errors.teacher_wrong >= _ERRORS:
        control = f", its control to {errors.control.value:.0%}" if errors.control is not None else ""
        wrong = f"to {errors.specialist.value:.0%} of the {errors.teacher_wrong} items that its teacher has wrong"
        parts.append(f"it gives the same wrong answer {wrong}{control}")
    return "; ".join(parts)


def _sure(student: StudentReport) -> str:
    found, task = student.calibration, student.tasks.get(student.domain)
    if found is None:
        return "How sure it may be was not measured"
    said = []
    if task is not None and (over := task.specialist.overconfidence) is not None:
        theirs = task.teacher.overconfidence
        beside = f", its teacher {_surer(theirs)}" if theirs is not None else ""
        said.append(f"of its answers to questions it is {_surer(over)} ({over.low:+.1%} … {over.high:+.1%}){beside}")
    gap = found.overconfidence_to_teacher
    text = f"to its likeliest next token it gives {100 * abs(gap):.1f} points {'more' if gap > 0 else 'less'} than its"
    text += " teacher does"
    if found.ece <= found.ece_by_chance:
        text += ", and is right as often as it says"
    elif found.temperature != 1:
        text += f" (a temperature of {found.temperature:.2f} repairs most)"
    return capitalised("; ".join([*said, text]))


def _surer(found: Interval) -> str:
    return f"{abs(found.value):.1%} {'surer' if found.value > 0 else 'less sure'} than right"


def _cost(student: StudentReport) -> str:
    cost, capacity = student.cost, student.capacity
    if cost is None or cost.times_fewer_flops is None:
        said = "was not timed beside its teacher, which `evaluate.cost: {teacher: true}` does"
    else:
        said = (
            f"takes 1/{cost.times_fewer_flops:.3g} of its teacher's FLOPs a token and 1/{cost.times_fewer_bytes:.3g} "
        )
        said += "of its bytes"
        if cost.times_faster:
            said += f", at {cost.times_faster:.3g} times its tokens a second"
        cheaper = cost.times_cheaper or cost.times_fewer_flops
        said += f" (1/{cost.target:g} is {'reached' if cheaper >= cost.target else 'not reached'})"
    if capacity is None:
        return said
    if capacity.floor is None:
        return f"{said}; before training it was {capacity.light} ({capacity.kl0:.3f} nats)"
    return f"{said}; it is {capacity.verdict}: {capacity.advice}"


def _points(found: Interval) -> str:
    return f"{100 * found.value:+.1f} points ({100 * found.low:+.1f} … {100 * found.high:+.1f})"


def capitalised(sentence: str) -> str:
    """With its first letter large."""
    return sentence[:1].upper() + sentence[1:]


def generalist_label(name: str) -> str:
    """What the difference to the generalist is called in a report."""
    return f"{name} - {GENERALIST}"
