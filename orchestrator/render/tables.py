"""Tables of what models answered, which report.md and report.html both show: the same cells in both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.render.jinja import formatted
from orchestrator.render.sentences import bridge_lines, gate_lines, generation_lines, interval_cell, nats_cell
from orchestrator.reporting.measures.bridges import BridgeScores
from orchestrator.reporting.measures.harness import HarnessReport, HarnessScore
from orchestrator.reporting.measures.tasks import FormatReport, TaskScore
from orchestrator.reporting.report import Report
from orchestrator.reporting.scores import Interval


@dataclass(frozen=True)
class Row:
    """A model's cells, or those of what it is measured against."""

    label: str
    own: bool
    """Whether it is the model itself."""
    cells: Sequence[str]

    @property
    def markdown(self) -> str:
        """The label as report.md has it."""
        return f"**{self.label}**" if self.own else f"– {self.label}"


@dataclass(frozen=True)
class Table:
    """A table, what its columns mean, and sentences below it with names between backticks."""

    title: str
    about: str
    head: Sequence[str]
    rows: Sequence[Row]
    notes: Sequence[str]


def answer_tables(report: Report) -> dict[str, Table]:
    """`generations`, `tasks`, `harness` and `bridges`, as far as there are numbers."""
    made = {
        "generations": _generations(report),
        "tasks": _tasks(report),
        "harness": _harness(report),
        "bridges": _bridges(report),
    }
    return {name: table for name, table in made.items() if table.rows}


def _generations(report: Report) -> Table:
    rows: list[Row] = []
    for name, student in report.students.items():
        if (found := student.generations) is not None:
            texts = {f"{report.generation}, new": found.new, **found.older}
            for generation, one in texts.items():
                if one is not None:
                    d, top1 = one.difference, one.difference.top1_agreement
                    cells = [generation, f"{one.before.kl:.4f}", f"{one.after.kl:.4f}"]
                    cells.append(f"{d.kl:+.4f} ({d.low:+.4f} … {d.high:+.4f})")
                    cells += [f"{one.before.top1_agreement:.1%}", f"{one.after.top1_agreement:.1%}"]
                    cells.append(f"{100 * top1.value:+.1f} ({100 * top1.low:+.1f} … {100 * top1.high:+.1f})")
                    rows.append(Row(name, True, cells))
    about = (
        "Specialists that went on from an older generation, on the held-out text of each, against the teacher that it "
        "had: as they were when they began to go on, and as they are now. Change: after less before, on the same texts,"
        " with its paired 95 % interval; a KL above 0 is forgotten, one below 0 gained. Top-1 in points."
    )
    head = ["specialist", "text of generation", "KL before", "after", "change", "top-1 before", "after", "change"]
    return Table("What specialists gained and forgot", about, head, rows, generation_lines(report))


def _tasks(report: Report) -> Table:
    """The format has a column where tasks ask for one."""
    formats = any(task.format for model in report.questioned.values() for task in model.tasks.values())
    rows: list[Row] = []
    notes = []
    for name, model in report.questioned.items():
        for domain, task in model.tasks.items():
            beside = {
                name: task.specialist,
                "its teacher": task.teacher,
                "initial weights": task.initial,
                "itself, after as many tokens as its controls": task.at_control_tokens,
                "hard labels": task.hard_labels,
                "given answers alone": task.given_answers,
                "generalist": task.generalist,
                "its teacher at 4 bit": task.teacher_4bit,
                "rounded (PTQ)": task.ptq,
                "rounded and trained (QAD)": task.quantised,
            }
            shares = _format_shares(name, task.format)
            for label, score in beside.items():
                if score is not None:
                    cells = [domain, *_task_cells(score), *([interval_cell(shares.get(label))] if formats else [])]
                    rows.append(Row(label, label == name, cells))
            of = f"{task.items:,} items of {', '.join(task.tasks)}"
            notes.append(f"`{name}`, {domain}: {of}; guessing gives {task.chance:.1%}")
    about = (
        "Share of right answers with its 95 % bootstrap interval over items. Retention: the score over the teacher's. "
        "Less chance: both less what guessing gives. Recovery: both less the score of the initial weights. Surer than "
        "right: of items with choices, the mean probability of the choice that is taken less the share of right ones."
    )
    if formats:
        about += " Format: share of written texts that have it, right or wrong."
    head = ["model", "domain", "score", "retention", "less chance", "recovery", "surer than right"]
    head += ["format"] if formats else []
    title = "Tasks: what a specialist keeps of its teacher's scores"
    return Table(title, about, head, rows, [*notes, *(line for _, line in gate_lines(report))])


def _format_shares(name: str, found: FormatReport | None) -> dict[str, Interval | None]:
    """By the labels of rows."""
    if found is None:
        return {}
    beside = {"its teacher": found.teacher, "initial weights": found.initial, "hard labels": found.hard_labels}
    return {name: found.specialist, **beside}


def _task_cells(found: TaskScore) -> list[str]:
    measures = (found.score, found.retention, found.corrected_retention, found.recovery, found.overconfidence)
    return [interval_cell(one) for one in measures]


def _harness(report: Report) -> Table:
    rows: list[Row] = []
    notes = []
    for name, model in report.questioned.items():
        for task, found in model.harness.items():
            beside: dict[str, HarnessReport | HarnessScore | None] = {
                name: found,
                "its teacher": found.teacher,
                "initial weights": found.initial,
                "itself, after as many tokens as hard labels": found.at_control_tokens,
                "hard labels": found.hard_labels,
                "generalist": found.generalist,
            }
            for label, score in beside.items():
                if score is not None:
                    error = "–" if score.stderr is None else formatted(score.stderr, ".4f")
                    cells = [task, formatted(score.score, ".4f"), error, interval_cell(score.retention)]
                    rows.append(Row(label, label == name, cells))
            of = f"{found.metric} of {found.n:,} items, {found.fewshot} examples before each"
            notes.append(f"`{name}`, {task}: {of}")
    about = (
        "Scores and standard errors as it has them. Retention: the score over the teacher's with its 95 % bootstrap "
        "interval, the same items drawn again for both."
    )
    head = ["model", "task", "score", "standard error", "retention"]
    return Table("Tasks of lm-evaluation-harness", about, head, rows, notes)


def _bridges(report: Report) -> Table:
    rows: list[Row] = []
    for name, model in report.questioned.items():
        if (found := model.bridges) is not None:
            beside: dict[str, BridgeScores | None] = {
                name: found,
                "initial weights": found.initial,
                "hard labels": found.hard_labels,
            }
            rows += [Row(n, n == name, _bridge_cells(b)) for n, b in beside.items() if b is not None]
    about = (
        "Bridges: tokens of the teacher's right answers that it is sure of, and without which its answer is wrong. KL "
        "to the teacher there, and at the other tokens that it is sure of. Repaired: of the questions that a model has "
        "wrong and that have a bridge, the share that it answers rightly from the teacher's answer up to and with the "
        "token of the bridge at which it is farthest from the teacher, and up to that token without it."
    )
    head = ["model", "KL at bridges", "KL elsewhere", "top-1 at bridges", "top-1 elsewhere"]
    head += ["wrong", "with a bridge", "repaired", "without the token"]
    return Table("Where answers hang on a token", about, head, rows, bridge_lines(report))


def _bridge_cells(found: BridgeScores) -> list[str]:
    shares = [interval_cell(one) for one in (found.top1_at_bridges, found.top1_elsewhere)]
    repaired: list[Interval | None] = [found.repaired, found.repaired_without]
    counts = [str(found.wrong), str(found.tried)]
    return [
        nats_cell(found.kl_at_bridges),
        nats_cell(found.kl_elsewhere),
        *shares,
        *counts,
        *map(interval_cell, repaired),
    ]
