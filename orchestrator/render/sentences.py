"""What the closing lines and report.md say in the same words."""

from __future__ import annotations

import math
from collections.abc import Mapping

from humanize import naturalsize

from orchestrator.config.students import TEACHER_4BIT
from orchestrator.reporting.measures.bridges import BridgesReport
from orchestrator.reporting.measures.generations import BeforeAndAfter
from orchestrator.reporting.measures.tasks import Interval
from orchestrator.reporting.records import ModelReport, StudentReport
from orchestrator.reporting.report import Report
from orchestrator.reporting.timing import Timing
from workers.export.artefact import told

_SHOWN = 8
"""Reasons of one domain that are told apart; a filter may give as many as there are answers."""


def store_lines(report: Report) -> list[str]:
    """What was rejected, by source and by domain, and what was damaged and recomputed."""
    return [*_rejected_lines(report), *_repair_lines(report)]


def _rejected_lines(report: Report) -> list[str]:
    """A line for each source of prompts and each domain of answers."""
    rows, answers = report.prompts.reasons_by_source, report.targets.rejected_by_domain
    lines = [f"rows of prompts.{source} rejected: {counted(reasons)}" for source, reasons in rows.items()]
    return lines + [f"answers of {domain} rejected: {counted(reasons)}" for domain, reasons in answers.items()]


def rejected_rows(reasons: Mapping[str, int]) -> str:
    """How many rows are rejected, and why most of them."""
    words = f"{sum(reasons.values()):,} rows rejected"
    return f"{words}: {counted(reasons, 3)}" if reasons else words


def counted(reasons: Mapping[str, int], shown: int = _SHOWN) -> str:
    """Reasons with their counts; the rarer ones together."""
    most = sorted(reasons.items(), key=lambda item: -item[1])
    words = [f"{count:,} × {reason}" for reason, count in most[:shown]]
    if rest := most[shown:]:
        words.append(f"{sum(count for _, count in rest):,} × {len(rest):,} other reasons")
    return "; ".join(words)


def _repair_lines(report: Report) -> list[str]:
    """One line for all repairs, and one for each unit that came back with other contents."""
    if not report.repairs:
        return []
    units = len({(r.split, r.unit) for r in report.repairs})
    changed = [r for r in report.repairs if r.changed]
    same = len(report.repairs) - len(changed)
    lines = [f"damaged and recomputed: {units} units, {same} repairs with the same contents"]
    for r in changed:
        readers = f"{', '.join(r.readers)} had read the earlier ones" if r.readers else "no student had read them"
        lines.append(f"unit {r.unit} of the {r.split} store was recomputed with other contents; {readers}")
    return lines


def task_lines(report: Report, only: str | None = None) -> list[str]:
    """Scores on tasks, a line for each specialist (or one of them) and domain of its mix; report.md has the others."""
    lines = []
    for name, student in _students(report, only):
        for domain, task in student.tasks.items():
            if isinstance(student, StudentReport) and not student.mix.get(domain):
                continue
            beside = {"teacher": task.teacher, "hard labels": task.hard_labels, "given answers": task.given_answers}
            beside |= {"initial": task.initial}
            scores = ", ".join(f"{who} {s.score.value:.1%}" for who, s in beside.items() if s is not None)
            kept = task.specialist.retention
            words = f"; it keeps {kept.percent} of its teacher's" if kept is not None else ""
            if (formed := task.format) is not None:
                own, theirs = formed.specialist.value, formed.teacher.value
                words += f"; {own:.1%} of what it writes has the format, {theirs:.1%} of what its teacher writes"
            lines.append(
                f"{name} on {task.items:,} items of {domain}: {task.specialist.score.value:.1%} right, {scores}{words}"
            )
    return lines


def gate_lines(report: Report, only: str | None = None) -> list[tuple[bool, str]]:
    """Of each specialist (or one of them) that a gate is for, whether it passes, and a sentence."""
    lines = []
    for name, student in _students(report, only):
        if (gate := student.gate) is None:
            continue
        kept = f"{name} keeps {gate.retention:.1%} of its teacher's score on {gate.domain}"
        kept += f", and at least {gate.retention_low:.1%}" if math.isfinite(gate.retention_low) else ", or any part"
        asked = f"{gate.threshold:.1%} at the lower end of the 95 % interval"
        said = f"passed: {kept}" if gate.passed else f"FAILED: {kept}; it asks for {asked}"
        lines.append((gate.passed, f"gate {said}"))
    return lines


def bridge_lines(report: Report) -> list[str]:
    """Of each model that was looked at where its teacher's answers hang, a sentence."""
    return [f"{n}: {_at_bridges(m.bridges)}" for n, m in report.questioned.items() if m.bridges is not None]


def _at_bridges(found: BridgesReport) -> str:
    if not found.tokens:
        return (
            f"of {found.asked:,} items that are answered by writing the teacher answers {found.texts:,} rightly, none "
            "of them with a token that it is sure of"
        )
    said = (
        f"of {found.tokens:,} tokens in {found.texts:,} right answers of its teacher, which is sure of them and where "
        f"they were changed, {found.bridges:,} were bridges"
    )
    at, elsewhere = found.kl_at_bridges.value, found.kl_elsewhere.value
    if math.isfinite(at) and math.isfinite(elsewhere) and elsewhere > 0:
        said += f"; its KL there is {at / elsewhere:.3g} times that elsewhere"
    if found.repaired is None or found.repaired_without is None or found.repaired_by_token is None:
        return f"{said}; it has {found.wrong:,} of those questions wrong, and none of them has a bridge"
    return (
        f"{said}; of {found.tried:,} questions that it has wrong, the teacher's answer up to its worst bridge repairs "
        f"{found.repaired_without.value:.1%}, with the teacher's token there {found.repaired.value:.1%}: the token "
        f"alone {found.repaired_by_token.percent}"
    )


def four_bit_lines(report: Report) -> list[str]:
    """Whether the teacher at 4 bit is nearer to the teacher than each specialist is, and what both weigh."""
    found = report.teacher_4bit
    if found is None:
        return []
    sizes = f"{naturalsize(found.bytes)} ({found.rounded / found.parameters:.0%} of its weights at 4.5 bits"
    lines = [f"the teacher at 4 bit takes {sizes}, all else at 16) in place of {naturalsize(found.bytes_at_16_bit)}"]
    for name, student in report.students.items():
        rounded, own = found.by_domain.get(student.domain), student.heldout
        difference = report.differences.get(f"{name} - {TEACHER_4BIT}")
        if rounded is None or own is None or difference is None:
            continue
        nearer = name if difference.high < 0 else "the teacher at 4 bit" if difference.low > 0 else "neither"
        weight = student.model.parameters if student.model is not None else None
        size = f" in {naturalsize(2 * weight)} at 16 bits" if weight else ""
        times = f" in {found.bytes / (2 * weight):.3g} times as much" if weight else ""
        lines.append(
            f"{name}: KL {own.kl:.4f}{size}, the teacher at 4 bit {rounded.kl:.4f}{times}; {nearer} is nearer to the "
            f"teacher ({difference.kl:+.4f}, {difference.low:+.4f} … {difference.high:+.4f})"
        )
    return lines


def quantised_lines(report: Report) -> list[str]:
    """Of each specialist with a quantised sibling, what rounding costs with and without training for it."""
    lines = []
    for name, student in report.students.items():
        if student.quantised is None or (found := student.quantised.scores) is None:
            continue
        rounded = f"{name} at {student.quantised.format}"
        lost = found.ptq_loss
        said = f"{rounded}: rounding alone adds {lost.kl:.4f} nats of KL ({lost.low:.4f} … {lost.high:.4f})"
        if found.qad_loss is not None and found.qad_less_ptq is not None:
            trained, apart = found.qad_loss, found.qad_less_ptq
            said += f", training with it {trained.kl:+.4f} ({trained.low:+.4f} … {trained.high:+.4f})"
            better = "better" if apart.high < 0 else "worse" if apart.low > 0 else "neither better nor worse"
            said += f": {better} by {apart.kl:+.4f} ({apart.low:+.4f} … {apart.high:+.4f})"
            share = found.qad_over_ptq
            if trained.high < 0:
                said += "; the tokens that it trained on brought more than rounding takes"
            elif share is not None and math.isfinite(share.value):
                said += f", {share.percent} of what rounding alone loses"
        lines.append(said)
    return lines


def generation_lines(report: Report) -> list[str]:
    """Of each specialist that went on from an older generation, what it gained and what it forgot, in a sentence."""
    lines = []
    for name, student in report.students.items():
        if (found := student.generations) is None:
            continue
        older = {f"generation {g}" if g.isdigit() else g: one for g, one in found.older.items()}
        texts = {"new text": found.new} | {f"that of {text}": one for text, one in older.items()}
        said = [f"on {text} {_changed(one)}" for text, one in texts.items() if one is not None]
        lines.append(f"{name}, with {found.replay:.0%} of its tokens replayed: {'; '.join(said)}")
    return lines


def _changed(found: BeforeAndAfter) -> str:
    d = found.difference
    word = "gained" if d.high < 0 else "forgot" if d.low > 0 else "neither gained nor forgot"
    kl = f"KL {found.before.kl:.4f} → {found.after.kl:.4f}"
    return f"it {word} ({kl}, {d.kl:+.4f}, {d.low:+.4f} … {d.high:+.4f})"


def cost_lines(report: Report) -> list[str]:
    """Of each specialist that was timed beside its teacher, how much less it costs and what it keeps, in a sentence."""
    lines = []
    for name, student in report.questioned.items():
        cost = student.cost
        if cost is None or cost.times_fewer_flops is None:
            continue
        times = {
            "FLOPs a token": cost.times_fewer_flops,
            "bytes": cost.times_fewer_bytes,
            "dollars a token": cost.times_cheaper,
        }
        parts = [f"1/{n:.3g} of the {what}" for what, n in times.items() if n]
        if cost.times_faster:
            parts.append(f"{cost.times_faster:.3g} times the tokens a second ({cost.device})")
        cheaper = cost.times_cheaper or cost.times_fewer_flops
        by = "dollars" if cost.times_cheaper else "FLOPs"
        reached = "reached" if cheaper >= cost.target else "not reached"
        kept = ""
        if (gate := student.gate) is not None:
            kept = f", and keeps {gate.retention:.1%} of its score ({gate.domain}, at least {gate.retention_low:.1%})"
        lines.append(f"{name} takes {', '.join(parts)} of its teacher{kept}: 1/{cost.target:g} by {by} is {reached}")
    return lines


_WAITED = 0.2
"""Share of its time in its place that a student may wait before something is said."""


def waiting_lines(report: Report) -> list[str]:
    """Of each student that waited long for targets, how long, and what would use its place better."""
    lines = []
    for name, cost in report.trained.items():
        if cost.waited_s is None or cost.seconds is None or cost.waited_s < 1:
            continue
        if (share := cost.waited_s / (cost.waited_s + cost.seconds)) > _WAITED:
            lines.append(
                f"{name} waited for targets {share:.0%} of its time in its place ({cost.waited_s:,.0f} s); more "
                "replicas of the teacher (teacher.replicas), fewer specialists at once (fan_out.at_once) or a later "
                "start (fan_out.wait) would use it better"
            )
    return lines


def export_lines(report: Report) -> list[str]:
    """Of each exported file that was measured, how large and how near to what was trained it is."""
    return [f"{artefact.path}: {told(artefact)}" for artefact in report.artefacts]


def _students(report: Report, only: str | None) -> list[tuple[str, StudentReport | ModelReport]]:
    return [(name, student) for name, student in report.questioned.items() if only in (None, name)]


def interval_cell(interval: Interval | None) -> str:
    """A part of one with its interval, for a table; empty where nothing was measured."""
    return interval.percent if interval is not None else ""


def nats_cell(interval: Interval) -> str:
    """Nats with their 95 % interval, for a table; a dash where they are not known."""
    if not math.isfinite(interval.value):
        return "–"
    bounds = f" ({interval.low:.4f} … {interval.high:.4f})" if math.isfinite(interval.low) else ""
    return f"{interval.value:.4f}{bounds}"


def timing_line(timing: Timing) -> str:
    """How long teacher and students worked."""
    said = (
        f"teacher {timing.teacher_s:.0f} s, students {timing.students_s:.0f} s, "
        f"both at once {timing.overlap_s:.0f} s, wall {timing.wall_s:.0f} s"
    )
    rest = timing.else_s
    return said if rest is None else f"{said}, of which {rest:.0f} s were neither (loading, evaluation, export)"
