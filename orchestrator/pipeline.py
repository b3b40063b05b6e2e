"""A run from prompts to report, and each of its stages alone.

    freeze prompts -> teach units <-> train students -> evaluate -> export -> report

Teaching and training meet only in the target store: students begin with the first committed unit. Every stage leaves
what it made in the run folder and passes over what is there already, so the same command goes on where it stopped.
"""

from __future__ import annotations

import json
from typing import Any

from orchestrator import capture
from orchestrator.attempt import Attempt, attempt
from orchestrator.config_file import ConfigFile
from orchestrator.export import export
from orchestrator.preparation import Preparation
from orchestrator.progress_view import ProgressView
from orchestrator.report import build_report
from orchestrator.report_text import closing_lines, closing_table, markdown
from orchestrator.run_folder import RunFolder
from orchestrator.students import lineup
from orchestrator.timing import timing
from orchestrator.watch import Teaching, Training, watch
from workers.splits import TRAIN
from workers.targets.contract import Contract


def run_all(file: ConfigFile, view: ProgressView) -> tuple[int, dict[str, Any]]:
    """The whole run; returns the exit code (1 if a specialist failed) and the report."""
    with attempt(file, view) as now:
        with view:
            with Preparation(now) as preparation:
                declared = freeze_prompts(now, preparation)
                teaching = Teaching(now, capture.missing_units(now.run))
                make_initial_weights(now, preparation, declared.vocabulary)  # while the teacher loads
            watch(now, teaching, Training(now, [], declared, repairs=True))
        report = measure_and_export(now)
    return (1 if now.failures else 0), report


def teach_only(file: ConfigFile, view: ProgressView, limit: int | None) -> Attempt:
    """The teacher's part alone: all missing units, or the first `limit` of them."""
    with attempt(file, view) as now, view:
        with Preparation(now) as preparation:
            freeze_prompts(now, preparation)
        watch(now, Teaching(now, limited(capture.missing_units(now.run), limit)), None)
    return now


def train_only(file: ConfigFile, view: ProgressView, only: list[str]) -> Attempt:
    """The students' part alone, from units that are taught already."""
    with attempt(file, view) as now, view:
        with Preparation(now) as preparation:
            declared = freeze_prompts(now, preparation)
            if missing := capture.missing_units(now.run, (TRAIN,)):
                raise ValueError(
                    f"train: {_lacking(missing)}; run `stillhouse teach` first, or `stillhouse run`, which does both "
                    "at once"
                )
            make_initial_weights(now, preparation, declared.vocabulary)
        watch(now, None, Training(now, only, declared, repairs=False))
    return now


def evaluate_only(file: ConfigFile, view: ProgressView) -> tuple[int, dict[str, Any]]:
    """Scores and report of what is trained."""
    with attempt(file, view) as now:
        report = measure_and_export(now, exports=False)
    return 0, report


def export_only(file: ConfigFile, view: ProgressView) -> list[str]:
    """Exports of what is trained, with the scores of the last report."""
    config = file.located()
    run = RunFolder.of(config)
    run.refuse_other(file.config)
    if not any(run.student_done(n) for n in config.specialists):
        raise ValueError(f"export: no specialist of {run.uri} is trained yet; run `stillhouse train` first")
    report = run.read_json("report.json") or build_report(run, config, None, {}, timing([], 0))
    return export(run, config, report)


def freeze_prompts(now: Attempt, preparation: Preparation) -> Contract:
    """Prompts frozen and stores opened; returns what students expect of theirs. What is there already is only read."""
    summary = preparation.prompts()
    splits = ", ".join(f"{s['prompts']} {name} in {s['units']} units" for name, s in summary["splits"].items())
    now.view.say(f"prompts frozen: {splits}; {summary['set_aside']} rows set aside")
    for reason, count in summary["reasons"].items():
        now.view.say(f"  set aside: {count} × {reason}")
    return capture.open_stores(now.run, now.config, now.found, summary["vocabulary"])


def make_initial_weights(now: Attempt, preparation: Preparation, vocabulary: int) -> None:
    """What every student starts from, made where it is missing."""
    for chain in lineup(now.config):
        fact = preparation.initial(chain[0], vocabulary)
        size = f"{fact['parameters'] / 1e6:.2f} M parameters, {fact['layers']} layers"
        merged = dropped = ""
        if "merged" in fact:
            merged = f", {fact['merged_experts']} experts made {fact['merged_width']} neurons by {fact['merged']} "
            merged += f"(KL to the mixture {fact['kl_to_mixture']:.3f})"
        if "dropped_layers" in fact:
            dropped = f", layers dropped {fact['dropped_layers']} (KL to base {fact['kl_to_base']:.3f})"
        now.view.say(f"student {chain[0].name}: {size}{merged}{dropped}")


def _lacking(missing: dict[str, list[dict[str, Any]]]) -> str:
    """What of the training store is new or damaged, in words."""
    rows = [row for of_teacher in missing.values() for row in of_teacher]
    damaged = [str(row["unit"]) for row in rows if row["repair"]]
    new = len(rows) - len(damaged)
    words = [f"{new} units of the training store are not taught yet"] if new else []
    if damaged:
        words.append(f"units of the training store are damaged and to be taught again: {', '.join(damaged)}")
    return "; ".join(words)


def limited(work: dict[str, list[dict[str, Any]]], limit: int | None) -> dict[str, list[dict[str, Any]]]:
    """The first `limit` units of all."""
    if limit is None:
        return work
    kept: dict[str, list[dict[str, Any]]] = {}
    for name, rows in work.items():
        kept[name] = rows[:limit]
        limit -= len(kept[name])
    return kept


def measure_and_export(now: Attempt, *, exports: bool = True) -> dict[str, Any]:
    """Evaluate, export, report."""
    from orchestrator.evaluation import evaluate

    run, config = now.run, now.config
    trained = [n for n in config.specialists if run.student_done(n)]
    evaluation = None
    if trained:
        now.view.say(f"evaluating {', '.join(trained)} on held-out text")
        evaluation = evaluate(run, config, now.board_name)
    report = build_report(run, config, evaluation, now.failures, now.timing())
    if exports:
        now.require_lease()
        for key in export(run, config, report):
            report["students"][key.removeprefix("exports/")]["export"] = key
        report["timing"] = now.timing()
    now.require_lease()
    run.storage.write("report.json", json.dumps(report, indent=1).encode())
    run.storage.write("report.md", markdown(report).encode())
    now.view.console.print(closing_table(report))
    for line in closing_lines(report):
        now.view.console.print(line, markup=False)
    return report
