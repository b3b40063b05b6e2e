"""What a run prints when it ends: a table of its specialists, and lines below it."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console, Group
from rich.panel import Panel
from rich.text import Text

from orchestrator.config.students import GENERALIST
from orchestrator.render.cards import Card, cards_of
from orchestrator.render.columns import print_columns
from orchestrator.render.sentences import (
    cost_lines,
    export_lines,
    four_bit_lines,
    gate_lines,
    generation_lines,
    quantised_lines,
    store_lines,
    task_lines,
    timing_line,
    waiting_lines,
)
from orchestrator.render.spent import node_lines, spent_lines
from orchestrator.reporting.records import StudentReport
from orchestrator.reporting.report import Report
from orchestrator.reporting.scores import ProbeRanks, Score
from workers.export.artefact import told


def print_closing(report: Report, out: Console) -> None:
    """Print each specialist on its own domain beside what it is measured against, and then all else in lines."""
    measured = {n: s for n, s in report.students.items() if s.heldout is not None}
    if measured:
        out.print(Text(f"run {report.title}: held-out KL to the teacher", style="bold"), soft_wrap=True)
        _print_table(report, measured, out)
    elif report.models:
        out.print(Text(f"run {report.title}: held-out KL to the teacher", style="bold"), soft_wrap=True)
        rows = [[n, d, *_interval(s), f"{s.acceptance:.0%}", f"{s.top1_agreement:.0%}"] for n, d, s in _scores(report)]
        print_columns(out, ["model", "domain", "KL ± 95 %", "acceptance", "top-1"], rows, ["model", "domain"])
    for line in closing_lines(report):
        out.print(line, markup=False, soft_wrap=True)


_MARKS = {"passed": ("✔", "bold green"), "open": ("•", "bold")}
_NOT = ("✘", "bold red")


def print_verdicts(report: Report, out: Console, lines: Sequence[str] = ()) -> None:
    """Print what is decided of each specialist and the numbers that decide, and `lines` below: in a frame on a
    terminal, else as lines."""
    said = [_verdict(card) for card in cards_of(report)]
    for name in report.models:
        said += [Text(line, style="" if ok else "bold red") for ok, line in gate_lines(report, only=name)]
    beyond = [artefact for artefact in report.artefacts if artefact.within_gate is False]
    said += [Text(f"✘ {artefact.path}: {told(artefact)}", style="bold red") for artefact in beyond]
    said += [Text(line) for line in lines]
    if out.is_terminal and said:
        out.print(Panel(Group(*said), title=report.title, title_align="left", padding=(0, 1)))
        return
    for line in said:
        out.print(line, soft_wrap=True)


def _verdict(card: Card) -> Text:
    """Whether a specialist passes, the numbers that decide and, where it does not pass, why."""
    mark, style = _MARKS.get(card.state, _NOT)
    text = Text(f"{mark} {card.name}" if card.state == "open" else f"{mark} {card.name} {card.word}", style=style)
    said = [f"{what} {value} ({beside})" for what, beside, value in card.numbers] or ["was not scored"]
    if card.state != "open":
        said = [card.why] if card.state == "broken" else [*said, card.why]
    return text.append(f": {' · '.join(said)}", style="not bold default")


def _print_table(report: Report, measured: dict[str, StudentReport], out: Console) -> None:
    controls: dict[str, dict[str, Score | None]] = {
        "initial": {n: s.initial for n, s in measured.items()},
        "at equal tokens": {n: s.at_control_tokens for n, s in measured.items()},
        "hard labels": {n: s.hard_labels for n, s in measured.items()},
        "given answers": {n: s.given_answers for n, s in measured.items()},
        "generalist": {n: report.table.get(GENERALIST, {}).get(s.domain) for n, s in measured.items()},
    }
    beside = {head: column for head, column in controls.items() if any(column.values())}
    heads = ["specialist", "KL ± 95 %", *beside, "top-1"]
    rows = [[name, *_own(s), *(_kl(c[name]) for c in beside.values()), _top1(s)] for name, s in measured.items()]
    print_columns(out, heads, rows, ["specialist"])


def _scores(report: Report) -> list[tuple[str, str, Score]]:
    """Of the models that were not trained here, by domain."""
    return [(name, domain, score) for name in report.models for domain, score in report.table[name].items()]


def _own(student: StudentReport) -> list[str]:
    return _interval(student.heldout) if student.heldout else ["–"]


def _interval(score: Score) -> list[str]:
    """KL and half the width of its interval."""
    return [f"{score.kl:z.3f} ± {(score.kl_high - score.kl_low) / 2:.3f}"]


def _kl(score: Score | None) -> str:
    return f"{score.kl:.3f}" if score else "–"


def _top1(student: StudentReport) -> str:
    return f"{student.heldout.top1_agreement:.0%}" if student.heldout else "–"


def closing_lines(report: Report) -> list[str]:
    """What stands below the table: at which tokens controls are compared, the single-expert teacher, probes, what was
    rejected, failures, times."""
    lines = [text for name, student in report.students.items() if (text := _at_equal_tokens(name, student))]
    if report.single_expert is not None:
        kl = ", ".join(f"{domain} {value:.2f}" for domain, value in report.single_expert.kl.items())
        lines.append(f"single-expert teacher (one expert a layer, no router): KL {kl}")
    lines += [*generation_lines(report), *four_bit_lines(report), *quantised_lines(report)]
    for name, student in report.students.items():
        if student.probes:
            lines.append(f"{name}, rank of each probe: {_ranks(student.probes)}")
    lines += [*task_lines(report), *cost_lines(report), *export_lines(report)]
    lines += [*waiting_lines(report), *store_lines(report)]
    lines += [f"note: {note}" for note in report.notes]
    lines += [f"FAILED {name}: {error}" for name, error in report.failures.items() if name not in report.students]
    return [*lines, *spent_lines(report.spent), *node_lines(report.nodes), timing_line(report.timing)]


def _at_equal_tokens(name: str, student: StudentReport) -> str:
    """A specialist beside its control of hard labels, and after how many tokens; empty where they are not measured."""
    distilled, control = student.at_control_tokens or student.heldout, student.hard_labels
    if distilled is None or control is None or student.hard_labels_tokens is None:
        return ""
    of = f" of {student.tokens:,}" if student.at_control_tokens is not None else ""
    return (
        f"{name} after {student.hard_labels_tokens:,}{of} target tokens: KL {distilled.kl:.3f} distilled, "
        f"{control.kl:.3f} from hard labels"
    )


def _ranks(probes: tuple[ProbeRanks, ...]) -> str:
    columns = {"specialist": [p.specialist for p in probes]}
    if any(p.at_control_tokens is not None for p in probes):
        columns["at equal tokens"] = [p.at_control_tokens for p in probes]
    columns["hard labels"] = [p.hard_labels for p in probes]
    words = {head: ", ".join("-" if rank is None else str(rank) for rank in ranks) for head, ranks in columns.items()}
    return "; ".join(f"{head} {ranks}" for head, ranks in words.items())
