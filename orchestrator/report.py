"""report.json: everything that a run found, as plain data."""

from __future__ import annotations

from collections import Counter
from typing import Any

from orchestrator.config import RunConfig
from orchestrator.evaluation import ERODED, Evaluation
from orchestrator.repairs import repairs
from orchestrator.run_folder import RunFolder
from orchestrator.set_aside import answers_set_aside
from orchestrator.students import GENERALIST, HARD_LABELS
from orchestrator.text_notes import text_notes
from workers.splits import HELDOUT, TRAIN
from workers.targets.config import TargetsConfig
from workers.targets.log import Entry
from workers.targets.schema import StoreHeader
from workers.targets.store import TargetStore


def build_report(
    run: RunFolder, config: RunConfig, evaluation: Evaluation | None, failures: dict[str, str], timing: dict[str, float]
) -> dict[str, Any]:
    """Everything that a run found, as plain data."""
    prompts = run.read_json("prompts/summary.json") or {}
    students = {n: _student(run, config, n, evaluation, failures) for n in config.specialists}
    report: dict[str, Any] = {
        "run": config.name,
        "seed": config.seed,
        "teachers": _teachers(run, config),
        "targets": _targets(run, config),
        "repairs": repairs(run, config),
        "prompts": prompts,
        "students": students,
        "timing": timing,
        "failures": failures,
    }
    if evaluation is not None:
        report["table"] = {n: evaluation.scores[n] for n in [*config.specialists, GENERALIST] if n in evaluation.scores}
        report["differences"] = evaluation.differences
        report["probes"] = evaluation.probes
        if ERODED in evaluation.scores:
            report["eroded"] = {
                "kl": {d: s["kl"] for d, s in evaluation.scores[ERODED].items()},
                "by_domain": evaluation.scores[ERODED],
            }
        if evaluation.unigram:
            report["unigram"] = {"truth_excess_kl": evaluation.unigram}
    asked = {(a["source"], tuple(a["domains"])) for a in prompts.get("asked", []) if not a["given"]}
    report["notes"] = text_notes(config, asked)
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
            "model": config.teachers[name].model,
            "ep_size": teacher.ep_size,
            "dispatch": teacher.dispatch,
            "tokens": tokens,
            "generated": sum(e.generated for e in own),
            "units": len(own),
            "tokens_per_s": round(tokens / busy, 1) if busy else 0.0,
        }
    return result


def _targets(run: RunFolder, config: RunConfig) -> dict[str, Any]:
    entries = _entries(run, TRAIN)
    tokens = max(sum(e.targets for e in entries), 1)
    size = sum(e.size for e in entries)
    try:
        settings: StoreHeader | TargetsConfig = TargetStore(run.storage, TRAIN).header
    except FileNotFoundError:
        settings = config.targets
    return {
        "scheme": settings.scheme,
        "draws": settings.draws,
        "positions": settings.positions,
        "tokens": sum(e.targets for e in entries),
        "units": len(entries),
        "rows": sum(e.rows for e in entries),
        "bytes": size,
        "bytes_per_token": round(size / tokens, 2),
        "entries_per_token": round(sum(e.entries for e in entries) / tokens, 2)
        if settings.scheme != "full"
        else getattr(settings, "vocabulary", 0),
        "set_aside": dict(Counter(item["reason"] for e in entries for item in e.set_aside)),
        "set_aside_by_domain": answers_set_aside(run.storage, entries),
        "answers": getattr(settings, "answers", {}),
    }


def _student(
    run: RunFolder, config: RunConfig, name: str, evaluation: Evaluation | None, failures: dict[str, str]
) -> dict[str, Any]:
    own, done = config.own_domain(name), run.student_done(name)
    exported = run.storage.exists(f"{run.export_key(name)}/config.json")
    result: dict[str, Any] = {
        "domain": own,
        "mix": config.mix_of(name),
        "tokens": done["tokens"] if done else 0,
        "steps": done["steps"] if done else 0,
        "model": run.read_json(f"students/{name}/initial.json"),
        "export": run.export_key(name) if exported else None,
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
