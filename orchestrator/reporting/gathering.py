"""What a report is made of, gathered from a run's folder.

Models are named as the configuration names them, and the run's own folders are cut out of messages: a report is read
on other machines than the one that ran.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from orchestrator.config.schema import RunConfig
from orchestrator.config.students import GIVEN_ANSWERS, HARD_LABELS, INITIAL, QUANTISED
from orchestrator.reporting.evaluation import Evaluation
from orchestrator.reporting.measures.costs import student_cost
from orchestrator.reporting.measures.quantised import quantised_report
from orchestrator.reporting.measures.shown import HardPrompt, apart_tokens
from orchestrator.reporting.measures.tasks import gate_report
from orchestrator.reporting.records import (
    AskedReport,
    FirstKlReport,
    InitialWeights,
    LossPoint,
    ModelReport,
    PromptsReport,
    SamplingReport,
    SourceModel,
    SplitReport,
    StudentReport,
    TargetsReport,
    TeacherReport,
)
from orchestrator.reporting.rejected import DomainsOfUnits, RejectedAnswers
from orchestrator.reporting.scores import Calibration, Difference, ProbeRanks, Score
from orchestrator.runs.exported import artefacts_of
from orchestrator.runs.folder import RunFolder
from workers.fetching.licences import licence_of
from workers.first_kl import kl0_light
from workers.layout import AT_CONTROL_TOKENS, PROMPTS_SUMMARY, StudentLayout, export_key
from workers.splits import HELDOUT, TRAIN
from workers.targets.commits.sums import EntrySums
from workers.targets.config import TargetsConfig
from workers.targets.encoding.schema import StoreHeader
from workers.targets.store import TargetStore


@dataclass(frozen=True)
class Captured:
    """What the logs of the training and the held-out store add up to."""

    train: EntrySums
    """Of the training store."""
    of_teacher: dict[str, EntrySums]
    """Of both, by teacher."""
    rejected_by_domain: dict[str, dict[str, int]]
    busy_by_domain: dict[str, float]
    """Seconds that teachers were at work on training units; of several domains, shared out equally."""


def read_logs(run: RunFolder) -> Captured:
    """The sums, entry by entry."""
    train, of_teacher = EntrySums(), defaultdict[str, EntrySums](EntrySums)
    domains = DomainsOfUnits(run.storage)
    rejected, busy = RejectedAnswers(domains), defaultdict[str, float](float)
    for split in (TRAIN, HELDOUT):
        for entry in TargetStore(run.storage, split).log.each():
            of_teacher[entry.teacher].add(entry)
            if split == TRAIN:
                train.add(entry)
                rejected.add(entry)
                own = domains[entry.unit]
                for domain in own:
                    busy[domain] += (entry.finished - entry.started) / len(own)
    return Captured(train, dict(of_teacher), rejected.counts(), dict(busy))


def teacher_reports(config: RunConfig, written: RunConfig, captured: Captured) -> dict[str, TeacherReport]:
    """Each teacher and what its units, of all splits, say of its work."""
    return {n: _teacher(config, written, n, captured.of_teacher.get(n, EntrySums())) for n in written.teachers}


def _teacher(config: RunConfig, written: RunConfig, name: str, own: EntrySums) -> TeacherReport:
    teacher = written.teachers[name]
    return TeacherReport(
        model=shown_model(teacher.model),
        licence=licence_of(config.teachers[name].model, teacher.revision),
        ep_size=teacher.ep_size,
        dispatch=teacher.dispatch,
        tokens=own.targets,
        generated=own.generated,
        units=own.units,
        tokens_per_s=round(own.targets / own.busy_s, 1) if own.busy_s else 0.0,
    )


def shown_model(written: str) -> str:
    """A model as its configuration names it; of an absolute path, which says nothing elsewhere, the last part."""
    return Path(written).name if os.path.isabs(os.path.expanduser(written)) else written


def targets_report(run: RunFolder, config: RunConfig, captured: Captured) -> TargetsReport:
    """The training store: its header, or the settings where there is none yet, and what its log adds up to."""
    try:
        settings: StoreHeader | TargetsConfig = TargetStore(run.storage, TRAIN).header
    except FileNotFoundError:
        settings = config.targets
    train, tokens = captured.train, captured.train.targets
    kept: float = round(train.num_kept / max(tokens, 1), 2)
    answers: dict[str, int | str] = {}
    if isinstance(settings, StoreHeader):
        kept = kept if settings.sampled else settings.vocabulary
        answers = settings.answers
    return TargetsReport(
        scheme=settings.scheme,
        draws=settings.draws,
        positions=settings.positions,
        tokens=tokens,
        units=train.units,
        rows=train.rows,
        bytes=train.bytes,
        bytes_per_token=round(train.bytes / max(tokens, 1), 2),
        kept_per_token=kept,
        rejected=dict(train.rejected),
        rejected_by_domain=captured.rejected_by_domain,
        answers=answers,
    )


def prompts_report(run: RunFolder) -> PromptsReport:
    """What freezing made of the prompts."""
    summary: dict[str, Any] = run.read_json(PROMPTS_SUMMARY) or {}
    return PromptsReport(
        vocabulary=summary.get("vocabulary", 0),
        stop_ids={name: tuple(ids) for name, ids in summary.get("stop_ids", {}).items()},
        asked=tuple(_asked(item) for item in summary.get("asked", ())),
        rejected=summary.get("rejected", 0),
        reasons=summary.get("reasons", {}),
        reasons_by_source=summary.get("reasons_by_source", {}),
        splits={name: SplitReport(**split) for name, split in summary.get("splits", {}).items()},
    )


def _asked(item: dict[str, Any]) -> AskedReport:
    sampling = SamplingReport(**item["sampling"] | {"stop": tuple(item["sampling"]["stop"])})
    return AskedReport(**item | {"domains": tuple(item["domains"]), "sampling": sampling})


def student_report(
    run: RunFolder,
    config: RunConfig,
    written: RunConfig,
    name: str,
    captured: Captured,
    evaluation: Evaluation | None,
    failures: Mapping[str, str],
) -> StudentReport:
    """One specialist: what it was made of, and its scores on its own domain."""
    sibling = failures.get(f"{name}.{QUANTISED}")
    own, done = config.own_domain(name), run.student_done(name) or {}
    control, given = (run.student_done(f"{name}.{kind}") or {} for kind in (HARD_LABELS, GIVEN_ANSWERS))
    key, tasks = export_key(name), evaluation.tasks.get(name, {}) if evaluation is not None else {}
    return StudentReport(
        domain=own,
        mix=config.mix_of(name),
        tokens=done.get("tokens", 0),
        steps=done.get("steps", 0),
        base=_base(config, written, name),
        model=_initial_weights(run.read_json(StudentLayout(name).initial_facts)),
        export=key if run.storage.exists(f"{key}/config.json") else None,
        artefacts=artefacts_of(run, config, name),
        error=failures.get(name),
        curve=_curve(run, name, done),
        before=_first_kl(config, done.get("before")),
        heldout=_score(evaluation, name, own),
        initial=_score(evaluation, f"{name}.{INITIAL}", own),
        hard_labels=_score(evaluation, f"{name}.{HARD_LABELS}", own),
        difference=_difference(evaluation, f"{name} - {HARD_LABELS}"),
        hard_labels_tokens=control.get("tokens"),
        given_answers=_score(evaluation, f"{name}.{GIVEN_ANSWERS}", own),
        given_answers_tokens=given.get("tokens"),
        at_control_tokens=_score(evaluation, f"{name}.{AT_CONTROL_TOKENS}", own),
        beside={n: s for n in config.evaluate.beside.get(name, ()) if (s := _score(evaluation, n, own)) is not None},
        calibration=_calibration(evaluation, name, own),
        hardest=_hardest(evaluation, name, own) if evaluation else (),
        probes=_probes(evaluation, name, own) if evaluation is not None else (),
        capacity=evaluation.capacity.get(name) if evaluation else None,
        parrot=evaluation.parrot.get(name) if evaluation else None,
        inheritance=evaluation.inheritance.get(name) if evaluation else None,
        own_text=evaluation.own_text.get(name) if evaluation else None,
        bias=evaluation.bias.get(name) if evaluation else None,
        bridges=evaluation.bridges.get(name) if evaluation else None,
        quantised=quantised_report(run, config, name, evaluation.quantised.get(name) if evaluation else None, sibling),
        generations=evaluation.generations.get(name) if evaluation else None,
        cost=student_cost(config, name, evaluation.speeds, captured.busy_by_domain) if evaluation else None,
        gate=gate_report(config, name, tasks),
        tasks=tasks,
        harness=evaluation.harness.get(name, {}) if evaluation else {},
    )


def model_report(config: RunConfig, name: str, evaluation: Evaluation) -> ModelReport:
    """One model that was not trained here."""
    tasks = evaluation.tasks.get(name, {})
    return ModelReport(
        tasks=tasks,
        harness=evaluation.harness.get(name, {}),
        gate=gate_report(config, name, tasks),
        parrot=evaluation.parrot.get(name),
        inheritance=evaluation.inheritance.get(name),
        bias=evaluation.bias.get(name),
        bridges=evaluation.bridges.get(name),
        cost=student_cost(config, name, evaluation.speeds, {}),
    )


def _curve(run: RunFolder, name: str, done: dict[str, Any]) -> tuple[LossPoint, ...]:
    history = done.get("history")
    if history is None and (keys := run.storage.keys(StudentLayout(name).pointers)):
        history = (run.read_json(keys[-1]) or {}).get("history")
    return tuple(LossPoint(tokens=step["tokens"], loss=step["loss"]) for step in history or ())


def _first_kl(config: RunConfig, before: dict[str, Any] | None) -> FirstKlReport | None:
    """The record of what a student's workers have measured."""
    limits = config.evaluate.first_kl
    return None if before is None else FirstKlReport(**before, light=kl0_light(before["kl"], limits.green, limits.red))


def _base(config: RunConfig, written: RunConfig, name: str) -> SourceModel | None:
    """What a student starts from. A name that locating leaves as it is, is the Hub's."""
    model = written.specialists[name].model
    if model.source is None:
        return None
    shown = shown_model(model.source)
    located = config.specialists[name].model.source
    licence = licence_of(located, model.revision) if located is not None else None
    return SourceModel(name=shown, revision=model.revision, on_hub=shown == model.source == located, licence=licence)


def _initial_weights(facts: dict[str, Any] | None) -> InitialWeights | None:
    if facts is None:
        return None
    known: dict[str, Any] = {field.name: facts.get(field.name) for field in fields(InitialWeights)}
    for name, value in known.items():
        known[name] = tuple(value) if isinstance(value, list) else value
    return InitialWeights(**known)


def _score(evaluation: Evaluation | None, model: str, domain: str) -> Score | None:
    found = evaluation.scores.get(model, {}).get(domain) if evaluation is not None else None
    return Score.of(found) if found else None


def _calibration(evaluation: Evaluation | None, model: str, domain: str) -> Calibration | None:
    found = evaluation.calibration.get(model, {}).get(domain) if evaluation is not None else None
    return Calibration.of(found) if found else None


def _hardest(evaluation: Evaluation, name: str, own: str) -> tuple[HardPrompt, ...]:
    found = evaluation.hardest.get(name, {}).get(own, ())
    return tuple(HardPrompt(**h, apart=apart_tokens(evaluation.texts, name, own, h["prompt"])) for h in found)


def _difference(evaluation: Evaluation | None, label: str) -> Difference | None:
    found = evaluation.differences.get(label) if evaluation is not None else None
    return Difference.of(found) if found else None


def _probes(evaluation: Evaluation, name: str, own: str) -> tuple[ProbeRanks, ...]:
    """Rank of each probe's answer by the teacher, the specialist, its control, and itself after as many tokens."""
    columns = {"teacher": "teacher", "specialist": name}
    columns |= {label: f"{name}.{label}" for label in (HARD_LABELS, AT_CONTROL_TOKENS)}
    ranks = {label: evaluation.probes.get(key, {}).get(own) or [] for label, key in columns.items()}
    return tuple(
        ProbeRanks(**{label: int(r[i]["rank"]) if i < len(r) else None for label, r in ranks.items()})
        for i in range(len(ranks["teacher"]))
    )


def without_folders(run: RunFolder, text: str) -> str:
    """A message with paths below the run's folder, or the configuration's, told from there."""
    folders = [run.uri] if "://" not in run.uri else []
    folders.append(run.environment()["config_folder"])
    for folder in sorted(filter(lambda f: len(f) > 1, folders), key=len, reverse=True):
        text = text.replace(f"{folder}/", "")
        text = re.sub(rf"{re.escape(folder)}(?![\w.-])", ".", text)
    return text
