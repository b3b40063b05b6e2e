"""report.md."""

from __future__ import annotations

from orchestrator.config.students import GIVEN_ANSWERS, HARD_LABELS
from orchestrator.render.jinja import filled
from orchestrator.render.sentences import (
    cost_lines,
    four_bit_lines,
    interval_cell,
    quantised_lines,
    store_lines,
    timing_line,
    waiting_lines,
)
from orchestrator.render.spent import node_lines, spent_tables
from orchestrator.render.tables import answer_tables
from orchestrator.reporting.report import Report

_SINGLE_EXPERT = "*single-expert teacher* (one expert a layer, no router)"
_TEACHER_4BIT = "*teacher at 4 bit*"


def markdown(report: Report) -> str:
    """The report as Markdown."""
    kl_by_domain = {name: {d: s.kl for d, s in scores.items()} for name, scores in report.table.items()}
    if report.single_expert is not None:
        kl_by_domain[_SINGLE_EXPERT] = report.single_expert.kl
    four_bit = report.teacher_4bit.by_domain if report.teacher_4bit is not None else {}
    if four_bit:
        kl_by_domain[_TEACHER_4BIT] = {domain: score.kl for domain, score in four_bit.items()}
    return filled(
        "report.md.j2",
        report=report,
        kl_by_domain=kl_by_domain,
        domains=sorted({domain for row in kl_by_domain.values() for domain in row}),
        scored={n: s for n, s in report.students.items() if s.heldout is not None},
        measured={n: s for n, s in report.table.items() if n in report.models},
        excess=_excess(report),
        compared_after={
            f"{name} - {kind}": tokens
            for name, s in report.students.items()
            for kind, tokens in ((HARD_LABELS, s.hard_labels_tokens), (GIVEN_ANSWERS, s.given_answers_tokens))
        },
        after=_after,
        four_bit=four_bit,
        weighed=four_bit_lines(report),
        quantised={n: s for n, s in report.students.items() if s.quantised is not None and s.quantised.scores},
        rounding_costs=quantised_lines(report),
        short_controls=any(s.at_control_tokens is not None for s in report.students.values()),
        interval=interval_cell,
        answered=answer_tables(report),
        costs=cost_lines(report),
        spent=spent_tables(report.spent),
        files=report.artefacts,
        store_lines=[*waiting_lines(report), *store_lines(report)],
        nodes=node_lines(report.nodes),
        timing=timing_line(report.timing),
    )


def _after(tokens: int | None) -> str:
    """After how many target tokens a model is as it is; empty where that is not known."""
    return "" if tokens is None else f", after {tokens:,} tokens"


def _excess(report: Report) -> dict[str, tuple[float, float]]:
    """By specialist: its excess KL to the truth, and the unigram's."""
    unigram = report.unigram.truth_excess_kl if report.unigram is not None else {}
    found = {}
    for name, student in report.students.items():
        score, beside = student.heldout, unigram.get(student.domain)
        if score is not None and score.truth_excess_kl is not None and beside:
            found[name] = (score.truth_excess_kl, beside)
    return found
