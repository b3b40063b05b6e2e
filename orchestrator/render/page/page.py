"""The page itself: what a reader needs first, the pictures, the tables, the texts, and all numbers as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.render.cards import answer_of, cards_of
from orchestrator.render.jinja import filled
from orchestrator.render.page.assets import own_assets
from orchestrator.render.page.farthest import farthest
from orchestrator.render.page.pictures import picture_groups
from orchestrator.render.page.tokens import FULL_KL, embedded, guesses_json, texts_of
from orchestrator.render.sentences import (
    cost_lines,
    export_lines,
    four_bit_lines,
    store_lines,
    timing_line,
    waiting_lines,
)
from orchestrator.render.tables import answer_tables
from orchestrator.reporting.measures.shown import Texts
from orchestrator.reporting.report import Report


def report_page(report: Report, texts: Texts) -> str:
    """report.html: one file that asks no network for anything and runs no script but its own."""
    shown, cards = texts_of(report, texts), cards_of(report)
    return filled(
        "report.html.j2",
        report=report,
        cards=cards,
        answer=answer_of(report, cards),
        groups=picture_groups(report),
        heat=_heat(report),
        tables=answer_tables(report),
        texts=shown,
        farthest={name: farthest(some) for name, some in shown.items()},
        full_kl=FULL_KL,
        guesses=guesses_json(shown),
        data=embedded(_rounded(report.to_dict())),
        lines=[
            *four_bit_lines(report),
            *cost_lines(report),
            *export_lines(report),
            *waiting_lines(report),
            *store_lines(report),
            *report.notes,
        ],
        timing=timing_line(report.timing),
        **own_assets(),
    )


def _rounded(value: Any) -> Any:
    """JSON whose fractions have six digits: more than anything is measured to, and a third less to load."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {key: _rounded(one) for key, one in value.items()}
    return [_rounded(one) for one in value] if isinstance(value, list) else value


@dataclass(frozen=True)
class HeatCell:
    """A model's KL on a domain."""

    said: str
    shade: float
    """How strongly it is coloured, 0 to 1."""
    own: bool
    """Whether the domain is the one that the model is for."""


@dataclass(frozen=True)
class Heat:
    """KL by model and domain."""

    domains: Sequence[str]
    rows: Sequence[tuple[str, Sequence[HeatCell | None]]]


def _heat(report: Report) -> Heat:
    """Domains in the order of the specialists that are for them, so that these stand on the diagonal."""
    rows = {name: {d: s.kl for d, s in by.items()} for name, by in report.table.items()}
    if report.single_expert is not None:
        rows["single-expert teacher"] = dict(report.single_expert.kl)
    if report.teacher_4bit is not None:
        rows["teacher at 4 bit"] = {domain: score.kl for domain, score in report.teacher_4bit.by_domain.items()}
    known = {d for row in rows.values() for d in row}
    own = {name: student.domain for name, student in report.students.items()}
    domains = [d for d in dict.fromkeys([*own.values(), *sorted(known)]) if d in known]
    most = max((kl for row in rows.values() for kl in row.values()), default=1.0) or 1.0

    def cell(name: str, domain: str) -> HeatCell | None:
        if (kl := rows[name].get(domain)) is None:
            return None
        return HeatCell(f"{kl:.3f}", max(kl, 0.0) / most, own.get(name) == domain)

    return Heat(domains, [(name, [cell(name, d) for d in domains]) for name in rows])
