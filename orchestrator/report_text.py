"""A report for people: the closing table, report.md, and the cards of the exported models."""

from __future__ import annotations

from typing import Any

from rich.markup import escape
from rich.table import Table

from orchestrator.set_aside import set_aside_lines
from orchestrator.students import GENERALIST


def closing_table(report: dict[str, Any]) -> Table:
    """The table at the end of a run: each specialist on its own domain, beside what it is measured against."""
    own = {n: s for n, s in report["students"].items() if s.get("heldout")}
    beside = [c for c in ("initial", "hard_labels") if any(s.get(c) for s in own.values())]
    general = report.get("table", {}).get(GENERALIST, {})
    table = Table(title=f"run {report['run']}: held-out KL to the teacher", title_justify="left", header_style="bold")
    for column in (
        "specialist",
        "KL ± 95 %",
        *(c.replace("_", " ") for c in beside),
        *(["generalist"] if general else []),
    ):
        table.add_column(column, justify="left" if column == "specialist" else "right")
    table.add_column("top-1", justify="right")
    for name, student in own.items():
        score = student["heldout"]
        half = (score["kl_high"] - score["kl_low"]) / 2
        others = [_kl(student.get(c)) for c in beside] + ([_kl(general.get(student["domain"]))] if general else [])
        table.add_row(escape(name), f"{score['kl']:.3f} ± {half:.3f}", *others, f"{score['top1_agreement']:.0%}")
    return table


def closing_lines(report: dict[str, Any]) -> list[str]:
    """What stands below the table: the eroded teacher, probes, failures, times."""
    lines = []
    if "eroded" in report:
        kl = ", ".join(f"{d} {v:.2f}" for d, v in report["eroded"]["kl"].items())
        lines.append(f"eroded teacher (one expert a layer, no router): KL {kl}")
    for name, student in report["students"].items():
        if student.get("probes"):
            ranks = {c: ", ".join(str(p.get(c, "-")) for p in student["probes"]) for c in ("specialist", "hard_labels")}
            lines.append(f"{name}, rank of each probe: specialist {ranks['specialist']}; labels {ranks['hard_labels']}")
    lines += [*set_aside_lines(report), *_repairs(report)]
    lines += [f"note: {note}" for note in report["notes"]]
    lines += [f"FAILED {name}: {error}" for name, error in report["failures"].items()]
    t = report["timing"]
    lines.append(
        f"teacher {t['teacher_s']:.0f} s, students {t['students_s']:.0f} s, both at once {t['overlap_s']:.0f} s, "
        f"wall {t['wall_s']:.0f} s"
    )
    return lines


def _repairs(report: dict[str, Any]) -> list[str]:
    """Units that were damaged and taught again: one line, and one for each that came back with other contents."""
    repairs = report.get("repairs", [])
    if not repairs:
        return []
    units = len({(r["split"], r["unit"]) for r in repairs})
    changed = [r for r in repairs if r["changed"]]
    lines = [f"damaged and taught again: {units} units, {len(repairs) - len(changed)} repairs with the same contents"]
    for r in changed:
        readers = f"{', '.join(r['readers'])} had read the earlier ones" if r["readers"] else "no student had read them"
        lines.append(f"unit {r['unit']} of the {r['split']} store was taught again with other contents; {readers}")
    return lines


def _kl(score: dict[str, float] | None) -> str:
    return f"{score['kl']:.3f}" if score else "–"


def markdown(report: dict[str, Any]) -> str:
    """report.md."""
    lines = [
        f"# Run `{report['run']}`",
        "",
        *_md_teacher(report),
        *_md_own_domain(report),
        *_md_table(report),
        *_md_truth(report),
        *_md_probes(report),
        *_md_timing(report),
    ]
    if report["notes"]:
        lines += ["## Notes", "", *(f"- {n}" for n in report["notes"]), ""]
    return "\n".join(lines)


def _md_teacher(report: dict[str, Any]) -> list[str]:
    lines = ["## Teacher and targets", ""]
    for name, t in report["teachers"].items():
        lines.append(
            f"- `{name}` ({t['model']}): {t['tokens']:,} target tokens, {t['generated']:,} of them generated, at "
            f"{t['tokens_per_s']:,.0f} tokens/s per replica; experts over {t['ep_size']} ranks ({t['dispatch']})"
        )
    t = report["targets"]
    lines.append(
        f"- training store: `{t['scheme']}`, {t['tokens']:,} target tokens in {t['rows']:,} texts "
        f"and {t['units']} units, {t['bytes_per_token']} bytes and {t['entries_per_token']} entries a token"
    )
    lines += [f"- {line}" for line in [*set_aside_lines(report), *_repairs(report)]]
    return [*lines, ""]


def _md_own_domain(report: dict[str, Any]) -> list[str]:
    lines = [
        "## Each specialist on its own domain",
        "",
        "KL(teacher ‖ student) in nats a token, with its 95 % bootstrap interval over prompts.",
        "",
        "| model | KL | interval | top-1 agreement | perplexity | ECE to teacher | overconfidence gap |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, student in report["students"].items():
        if "error" in student:
            lines.append(f"| **{name}** | failed: {student['error']} | | | | | |")
        for label, score in (
            (f"**{name}**", student.get("heldout")),
            ("– initial", student.get("initial")),
            ("– hard labels", student.get("hard_labels")),
        ):
            if score:
                lines.append(_score_row(label, score))
    lines.append("")
    lines += [f"- `{n}` failed: {error}" for n, error in report["failures"].items() if n not in report["students"]]
    for label, pair in report.get("differences", {}).items():
        lines.append(f"- KL of {label}: {pair['kl']:+.4f} (paired 95 %: {pair['low']:+.4f} … {pair['high']:+.4f})")
    return [*lines, ""]


def _score_row(label: str, score: dict[str, float]) -> str:
    cells = [
        label,
        f"{score['kl']:.4f}",
        f"{score['kl_low']:.4f} … {score['kl_high']:.4f}",
        f"{score['top1_agreement']:.1%}",
        f"{score['perplexity']:.3f}",
        f"{score['ece_teacher']:.4f}",
        f"{score['overconfidence_gap']:+.4f}",
    ]
    return "| " + " | ".join(cells) + " |"


def _md_table(report: dict[str, Any]) -> list[str]:
    table = report.get("table")
    if not table:
        return []
    domains = sorted({d for row in table.values() for d in row})
    lines = [
        "## KL by specialist and domain",
        "",
        "| | " + " | ".join(domains) + " |",
        "|---" * (len(domains) + 1) + "|",
    ]
    for name, row in table.items():
        lines.append(f"| {name} | " + " | ".join(f"{row[d]['kl']:.3f}" if d in row else "" for d in domains) + " |")
    if "eroded" in report:
        kl = report["eroded"]["kl"]
        lines.append(
            "| *eroded teacher* (one expert a layer, no router) | "
            + " | ".join(f"{kl[d]:.3f}" if d in kl else "" for d in domains)
            + " |"
        )
    return [*lines, ""]


def _md_truth(report: dict[str, Any]) -> list[str]:
    if "unigram" not in report:
        return []
    lines = [
        "## Against the truth",
        "",
        "KL(truth ‖ model) − KL(truth ‖ teacher), nats a token; the unigram knows the domain's words only.",
        "",
        "| specialist | excess | unigram's | share |",
        "|---|---|---|---|",
    ]
    for name, student in report["students"].items():
        score, unigram = student.get("heldout"), report["unigram"]["truth_excess_kl"].get(student["domain"])
        if score and "truth_excess_kl" in score and unigram:
            excess = score["truth_excess_kl"]
            lines.append(f"| {name} | {excess:.4f} | {unigram:.3f} | {excess / unigram:.1%} |")
    return [*lines, ""]


def _md_probes(report: dict[str, Any]) -> list[str]:
    rows = [(n, s["probes"]) for n, s in report["students"].items() if s.get("probes")]
    if not rows:
        return []
    lines = [
        "## Probes: the rank of the right answer",
        "",
        "| domain | teacher | specialist | hard labels |",
        "|---|---|---|---|",
    ]
    for name, probes in rows:
        columns = [", ".join(str(p.get(c, "–")) for p in probes) for c in ("teacher", "specialist", "hard_labels")]
        lines.append(f"| {name} | " + " | ".join(columns) + " |")
    return [*lines, ""]


def _md_timing(report: dict[str, Any]) -> list[str]:
    t = report["timing"]
    return [
        "## Time",
        "",
        f"teacher {t['teacher_s']:.0f} s, students {t['students_s']:.0f} s, both at once {t['overlap_s']:.0f} s, "
        f"wall {t['wall_s']:.0f} s",
        "",
    ]


def model_card(report: dict[str, Any], name: str) -> str:
    """README.md of an exported specialist."""
    student, teachers = report["students"][name], report["teachers"]
    score = student.get("heldout")
    models = ", ".join(t["model"] for t in teachers.values())
    lines = [
        "---",
        "library_name: transformers",
        "pipeline_tag: text-generation",
        "tags: [distillation, stillhouse]",
        "---",
        "",
        f"# {name}",
        "",
        f"A dense specialist distilled by Stillhouse (run `{report['run']}`, seed {report['seed']}).",
        "",
        f"- teacher: {models}",
        f"- diet: {', '.join(f'{d} {w:.0%}' for d, w in student['mix'].items())}; {student['tokens']:,} target "
        f"tokens in {student['steps']:,} steps",
        f"- targets: {report['targets']['scheme']}, {report['targets']['draws']} draws, "
        f"{report['targets']['positions']} positions",
    ]
    if score:
        lines += [
            "",
            f"Held-out, domain `{student['domain']}` ({score['prompts']} prompts, {score['tokens']:,} tokens):",
            f"KL to the teacher {score['kl']:.4f} ({score['kl_low']:.4f} … {score['kl_high']:.4f}),",
            f"top-1 agreement {score['top1_agreement']:.1%}, perplexity {score['perplexity']:.3f},",
            f"ECE to teacher {score['ece_teacher']:.4f}, overconfidence gap {score['overconfidence_gap']:+.4f}.",
        ]
    return "\n".join(
        [
            *lines,
            "",
            "Scores are fidelity to the teacher, not correctness: the teacher's errors are learned with the rest.",
            "",
        ]
    )
