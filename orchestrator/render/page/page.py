"""The page itself: what a reader needs first, the pictures, the texts, and all numbers as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.render.cards import card_of
from orchestrator.render.jinja import filled
from orchestrator.render.page.assets import own_assets
from orchestrator.render.page.pictures import pictures
from orchestrator.render.page.tokens import embedded, guesses_json, texts_of
from orchestrator.render.sentences import bridge_lines, cost_lines, four_bit_lines, store_lines, timing_line
from orchestrator.reporting.measures.shown import Texts
from orchestrator.reporting.report import Report


def report_page(report: Report, texts: Texts) -> str:
    """report.html: one file that asks no network for anything and runs no script but its own."""
    shown = texts_of(report, texts)
    return filled(
        "report.html.j2",
        report=report,
        cards=[card_of(report, name) for name in report.students],
        pictures=list(pictures(report)),
        heat=_heat(report),
        texts=shown,
        guesses=guesses_json(shown),
        data=embedded(report.to_dict()),
        lines=[
            *four_bit_lines(report),
            *bridge_lines(report),
            *cost_lines(report),
            *store_lines(report),
            *report.notes,
        ],
        timing=timing_line(report.timing),
        **own_assets(),
    )


def _lines(report: Report) -> list[str]:
    """What else is to be said, in sentences."""
    measured = [*four_bit_lines(report), *bridge_lines(report), *cost_lines(report)]
    return [*measured, *store_lines(report), *report.notes]


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
