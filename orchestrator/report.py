"""report.json, report.md, the closing table and the model cards: what a run found, for programs and for people."""

from __future__ import annotations

from typing import Any

from rich.table import Table

from orchestrator.config import RunConfig
from orchestrator.evaluation import ERODED, Evaluation
from orchestrator.run_folder import RunFolder
from orchestrator.students import GENERALIST, HARD_LABELS
from workers.targets.log import Entry
from workers.targets.store import TargetStore
from workers.units import HELDOUT, TRAIN


def build_report(
    run: RunFolder, config: RunConfig, evaluation: Evaluation | None, failures: dict[str, str], timing: dict[str, float]
) -> dict[str, Any]:
    """Everything that a run found, as plain data."""
    prompts = run.read_json("prompts/summary.json") or {}
    students = {n: _student(run, config, n, evaluation, failures) for n in config.specialists}
    report: dict[str, Any] = {
        "run": config.name, "seed": config.seed, "teachers": _teachers(run, config), "targets": _targets(run, config),
        "prompts": prompts, "students": students, "timing": timing, "failures": failures,
    }
    if evaluation is not None:
        report["table"] = {n: evaluation.scores[n] for n in [*config.specialists, GENERALIST] if n in evaluation.scores}
        report["differences"] = evaluation.differences
        report["probes"] = evaluation.probes
        if ERODED in evaluation.scores:
            report["eroded"] = {"kl": {d: s["kl"] for d, s in evaluation.scores[ERODED].items()}, "by_domain": evaluation.scores[ERODED]}
        if evaluation.unigram:
            report["unigram"] = {"truth_excess_kl": evaluation.unigram}
    report["notes"] = _notes(config)
    return report


def _entries(run: RunFolder, split: str) -> list[Entry]:
    return TargetStore(run.storage, split).log.entries()


def _teachers(run: RunFolder, config: RunConfig) -> dict[str, Any]:
    entries = _entries(run, TRAIN) + _entries(run, HELDOUT)
    result = {}
    for name, teacher in config.teachers.items():
        own = [e for e in entries if e.teacher == name]
        busy = sum(e.finished - e.started for e in own)
        tokens = sum(e.targets for e in own)
        result[name] = {
            "model": config.teachers[name].model, "ep_size": teacher.ep_size, "dispatch": teacher.dispatch, "tokens": tokens,
            "generated": sum(e.generated for e in own), "units": len(own),
            "tokens_per_s": round(tokens / busy, 1) if busy else 0.0,
        }
    return result


def _targets(run: RunFolder, config: RunConfig) -> dict[str, Any]:
    entries = _entries(run, TRAIN)
    tokens = max(sum(e.targets for e in entries), 1)
    size = sum(p.bytes for e in entries for p in e.parts)
    header = TargetStore(run.storage, TRAIN).header
    reasons: dict[str, int] = {}
    for entry in entries:
        for item in entry.set_aside:
            reasons[item["reason"]] = reasons.get(item["reason"], 0) + 1
    return {
        "scheme": header.scheme, "draws": header.draws, "positions": header.positions, "tokens": sum(e.targets for e in entries),
        "units": len(entries), "rows": sum(e.rows for e in entries), "bytes": size, "bytes_per_token": round(size / tokens, 2),
        "entries_per_token": round(sum(e.entries for e in entries) / tokens, 2) if header.scheme != "full" else header.vocabulary,
        "set_aside": reasons,
    }


def _student(run: RunFolder, config: RunConfig, name: str, evaluation: Evaluation | None, failures: dict[str, str]) -> dict[str, Any]:
    own, done = config.own_domain(name), run.student_done(name)
    exported = run.storage.exists(f"{run.export_key(name)}/config.json")
    result: dict[str, Any] = {
        "domain": own, "mix": config.mix_of(name), "tokens": done["tokens"] if done else 0, "steps": done["steps"] if done else 0,
        "model": run.read_json(f"students/{name}/initial.json"), "export": run.export_key(name) if exported else None,
    }
    if name in failures:
        result["error"] = failures[name]
    if evaluation is not None:
        for label, key in (("heldout", name), ("initial", f"{name}.initial"), ("hard_labels", f"{name}.{HARD_LABELS}")):
            result[label] = evaluation.scores.get(key, {}).get(own)
        result["probes"] = _probes(evaluation, name, own)
        result["difference"] = evaluation.differences.get(f"{name} - {HARD_LABELS}")
    return result


def _probes(evaluation: Evaluation, name: str, own: str) -> list[dict[str, Any]]:
    """Rank of each probe's answer by the teacher, the specialist and its control."""
    columns = {"teacher": "teacher", "specialist": name, "hard_labels": f"{name}.{HARD_LABELS}"}
    ranks = {label: evaluation.probes.get(key, {}).get(own) or [] for label, key in columns.items()}
    return [{label: r[i]["rank"] for label, r in ranks.items() if i < len(r)} for i in range(len(ranks["teacher"]))]


def _notes(config: RunConfig) -> list[str]:
    notes = []
    for name, teacher in config.teachers.items():
        s = teacher.sampling
        if s.temperature != 1 or s.top_p < 1:
            notes.append(f"teachers.{name}: answers were sampled at temperature {s.temperature}, top_p {s.top_p}, while "
                         "distributions were captured at temperature 1: the text is not a sample of the targets, so contexts "
                         "are more typical than what a student will write itself")
    return notes


def closing_table(report: dict[str, Any]) -> Table:
    """The table at the end of a run: each specialist on its own domain, beside what it is measured against."""
    table = Table(title=f"held-out, own domain · {report['run']}", title_justify="left", header_style="bold")
    for column in ("specialist", "KL to teacher", "initial", "hard labels", "generalist", "top-1", "overconf."):
        table.add_column(column, justify="left" if column == "specialist" else "right", no_wrap=True)
    for name, student in report["students"].items():
        score = student.get("heldout")
        if score is None:
            table.add_row(name, f"[red]failed[/red]: {student.get('error', 'not trained')}"[:60])
            continue
        half = (score["kl_high"] - score["kl_low"]) / 2
        general = report.get("table", {}).get(GENERALIST, {}).get(student["domain"])
        table.add_row(
            name, f"{score['kl']:.3f} ±{half:.3f}", _kl(student.get("initial")), _kl(student.get("hard_labels")), _kl(general),
            f"{score['top1_agreement']:.0%}", f"{score['overconfidence_gap']:+.3f}",
        )
    return table


def _kl(score: dict[str, float] | None) -> str:
    return f"{score['kl']:.3f}" if score else "–"


def markdown(report: dict[str, Any]) -> str:
    """report.md."""
    lines = [f"# Run `{report['run']}`", "", *_md_teacher(report), *_md_own_domain(report), *_md_table(report),
             *_md_truth(report), *_md_probes(report), *_md_timing(report)]
    if report["notes"]:
        lines += ["## Notes", "", *(f"- {n}" for n in report["notes"]), ""]
    return "\n".join(lines)


def _md_teacher(report: dict[str, Any]) -> list[str]:
    lines = ["## Teacher and targets", ""]
    for name, t in report["teachers"].items():
        lines.append(f"- `{name}` ({t['model']}): {t['tokens']:,} target tokens, {t['generated']:,} of them generated, at "
                     f"{t['tokens_per_s']:,.0f} tokens/s per replica; experts over {t['ep_size']} ranks ({t['dispatch']})")
    t = report["targets"]
    lines.append(f"- training store: `{t['scheme']}`, {t['tokens']:,} target tokens in {t['rows']:,} texts and {t['units']} units, "
                 f"{t['bytes_per_token']} bytes and {t['entries_per_token']} entries a token")
    aside = {**report["prompts"].get("reasons", {}), **t["set_aside"]}
    if aside:
        lines.append("- set aside: " + "; ".join(f"{n} × {reason}" for reason, n in aside.items()))
    return [*lines, ""]


def _md_own_domain(report: dict[str, Any]) -> list[str]:
    lines = ["## Each specialist on its own domain", "",
             "KL(teacher ‖ student) in nats a token, with its 95 % bootstrap interval over prompts.", "",
             "| model | KL | interval | top-1 agreement | perplexity | ECE to teacher | overconfidence gap |",
             "|---|---|---|---|---|---|---|"]
    for name, student in report["students"].items():
        if "error" in student:
            lines.append(f"| **{name}** | failed: {student['error']} | | | | | |")
        for label, score in ((f"**{name}**", student.get("heldout")), ("– initial", student.get("initial")), ("– hard labels", student.get("hard_labels"))):
            if score:
                lines.append(f"| {label} | {score['kl']:.4f} | {score['kl_low']:.4f} … {score['kl_high']:.4f} | {score['top1_agreement']:.1%} | "
                             f"{score['perplexity']:.3f} | {score['ece_teacher']:.4f} | {score['overconfidence_gap']:+.4f} |")
    lines.append("")
    for label, pair in report.get("differences", {}).items():
        lines.append(f"- KL of {label}: {pair['kl']:+.4f} (paired 95 %: {pair['low']:+.4f} … {pair['high']:+.4f})")
    return [*lines, ""]


def _md_table(report: dict[str, Any]) -> list[str]:
    table = report.get("table")
    if not table:
        return []
    domains = sorted({d for row in table.values() for d in row})
    lines = ["## KL by specialist and domain", "", "| | " + " | ".join(domains) + " |", "|---" * (len(domains) + 1) + "|"]
    for name, row in table.items():
        lines.append(f"| {name} | " + " | ".join(f"{row[d]['kl']:.3f}" if d in row else "" for d in domains) + " |")
    if "eroded" in report:
        kl = report["eroded"]["kl"]
        lines.append("| *eroded teacher* (one expert a layer, no router) | " + " | ".join(f"{kl[d]:.3f}" if d in kl else "" for d in domains) + " |")
    return [*lines, ""]


def _md_truth(report: dict[str, Any]) -> list[str]:
    if "unigram" not in report:
        return []
    lines = ["## Against the truth", "", "KL(truth ‖ model) − KL(truth ‖ teacher), nats a token; the unigram knows the domain's words only.", "",
             "| specialist | excess | unigram's | share |", "|---|---|---|---|"]
    for name, student in report["students"].items():
        score, unigram = student.get("heldout"), report["unigram"]["truth_excess_kl"].get(student["domain"])
        if score and "truth_excess_kl" in score and unigram:
            lines.append(f"| {name} | {score['truth_excess_kl']:.4f} | {unigram:.3f} | {score['truth_excess_kl'] / unigram:.1%} |")
    return [*lines, ""]


def _md_probes(report: dict[str, Any]) -> list[str]:
    rows = [(n, s["probes"]) for n, s in report["students"].items() if s.get("probes")]
    if not rows:
        return []
    lines = ["## Probes: the rank of the right answer", "", "| domain | teacher | specialist | hard labels |", "|---|---|---|---|"]
    for name, probes in rows:
        columns = [", ".join(str(p.get(c, "–")) for p in probes) for c in ("teacher", "specialist", "hard_labels")]
        lines.append(f"| {name} | " + " | ".join(columns) + " |")
    return [*lines, ""]


def _md_timing(report: dict[str, Any]) -> list[str]:
    t = report["timing"]
    return ["## Time", "", f"teacher {t['teacher_s']:.0f} s, students {t['students_s']:.0f} s, both at once {t['overlap_s']:.0f} s, "
            f"wall {t['wall_s']:.0f} s", ""]


def model_card(report: dict[str, Any], name: str) -> str:
    """README.md of an exported specialist."""
    student, teachers = report["students"][name], report["teachers"]
    score = student.get("heldout")
    models = ", ".join(t["model"] for t in teachers.values())
    lines = ["---", "library_name: transformers", "pipeline_tag: text-generation", "tags: [distillation, stillhouse]", "---", "",
             f"# {name}", "", f"A dense specialist distilled by Stillhouse (run `{report['run']}`, seed {report['seed']}).", "",
             f"- teacher: {models}", f"- diet: {', '.join(f'{d} {w:.0%}' for d, w in student['mix'].items())}; {student['tokens']:,} target "
             f"tokens in {student['steps']:,} steps", f"- targets: {report['targets']['scheme']}, {report['targets']['draws']} draws, "
             f"{report['targets']['positions']} positions"]
    if score:
        lines += ["", f"Held-out, domain `{student['domain']}` ({score['prompts']} prompts, {score['tokens']:,} tokens): KL to the teacher "
                  f"{score['kl']:.4f} ({score['kl_low']:.4f} … {score['kl_high']:.4f}), top-1 agreement {score['top1_agreement']:.1%}, perplexity "
                  f"{score['perplexity']:.3f}, ECE to teacher {score['ece_teacher']:.4f}, overconfidence gap {score['overconfidence_gap']:+.4f}."]
    return "\n".join([*lines, "", "Scores are fidelity to the teacher, not correctness: the teacher's errors are learned with the rest.", ""])
