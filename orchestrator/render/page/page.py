"""The page itself: what a reader needs first, the pictures, the texts, and all numbers as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.render.jinja import filled
from orchestrator.render.page.assets import own_assets
from orchestrator.render.page.pictures import pictures
from orchestrator.render.page.tokens import embedded, guesses_json, texts_of
from orchestrator.render.sentences import (
    bridge_lines,
    cost_lines,
    export_lines,
    four_bit_lines,
    store_lines,
    timing_line,
)
from orchestrator.reporting.measures.shown import Texts
from orchestrator.reporting.report import Report


def report_page(report: Report, texts: Texts) -> str:
    """report.html: one file that asks no network for anything and runs no script but its own."""
    shown = texts_of(report, texts)
    return filled(
        "report.html.j2",
        report=report,
        cards=[_card(report, name) for name in report.students],
        pictures=list(pictures(report)),
        heat=_heat(report),
        texts=shown,
        guesses=guesses_json(shown),
        data=embedded(report.to_dict()),
        lines=[
            *four_bit_lines(report),
            *bridge_lines(report),
            *cost_lines(report),
            *export_lines(report),
            *store_lines(report),
            *report.notes,
        ],
        timing=timing_line(report.timing),
        **own_assets(),
    )


def _lines(report: Report) -> list[str]:
    """What else is to be said, in sentences."""
    measured = [*four_bit_lines(report), *bridge_lines(report), *cost_lines(report), *export_lines(report)]
    return [*measured, *store_lines(report), *report.notes]


@dataclass(frozen=True)
class Card:
    """What decides of one specialist: whether it passes, three numbers, four sentences."""

    name: str
    state: str
    """`passed`, `failed`, or `open` where no gate judges it."""
    word: str
    numbers: Sequence[tuple[str, str, str]]
    """What is measured, its value, and its interval or what it is beside."""
    sentences: Sequence[str]


def _card(report: Report, name: str) -> Card:
    student, verdict = report.students[name], report.verdicts[name]
    state = {True: "passed", False: "failed", None: "open"}[verdict.passed]
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


@dataclass(frozen=True)
class Heat:
    """KL by model and domain, each with how strongly its cell is coloured, 0 to 1."""

    domains: Sequence[str]
    rows: Sequence[tuple[str, Sequence[tuple[str, float] | None]]]


def _heat(report: Report) -> Heat:
    rows = {name: {d: s.kl for d, s in by.items()} for name, by in report.table.items()}
    if report.single_expert is not None:
        rows["single-expert teacher"] = dict(report.single_expert.kl)
    if report.teacher_4bit is not None:
        rows["teacher at 4 bit"] = {domain: score.kl for domain, score in report.teacher_4bit.by_domain.items()}
    domains = sorted({d for row in rows.values() for d in row})
    most = max((kl for row in rows.values() for kl in row.values()), default=1.0) or 1.0

    def cell(row: dict[str, float], domain: str) -> tuple[str, float] | None:
        return (f"{row[domain]:.3f}", max(row[domain], 0.0) / most) if domain in row else None

    return Heat(domains, [(name, [cell(row, d) for d in domains]) for name, row in rows.items()])
