"""Which models are measured, and on what."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from orchestrator.config.schema import RunConfig
from orchestrator.config.students import (
    CONTROLS,
    GENERALIST,
    INITIAL,
    PTQ,
    QUANTISED,
    SINGLE_EXPERT,
    TEACHER,
    TEACHER_4BIT,
    UNIGRAM,
    compared_with_control,
    harness_teachers,
    milestone_name,
    milestones_of,
)
from orchestrator.runs.folder import RunFolder
from orchestrator.runs.generations import continuing
from orchestrator.stages.capture import pinned
from workers.evaluation.job import ModelToScore
from workers.evaluation.tasks.asked import asked_now
from workers.layout import StudentLayout
from workers.manifest import read_plan
from workers.splits import HELDOUT
from workers.targets.store import TargetStore


def models_to_score(run: RunFolder, config: RunConfig) -> list[ModelToScore]:
    """Every trained specialist, and every further model, on every held-out domain and on every task; what stands beside
    specialists on their own domain; the teacher itself, for the probes and tasks."""
    domains = tuple(read_plan(run.storage, HELDOUT).domains)
    asked, timed = _asked_domains(run, config), config.evaluate.cost.measure
    harness = config.evaluate.harness is not None
    models, went_on = [], continuing(run, config)
    for name in config.specialists:
        if run.student_done(name) is None:
            continue
        own, own_asked = ((d,) if (d := config.own_domain(name)) in known else () for known in (domains, asked))
        stored = partial(ModelToScore, kind="stored", domains=own, task_domains=own_asked, harness=harness)
        older = config.own_domain(name) if name in went_on else ""
        models.append(
            stored(
                name,
                source=StudentLayout(name).final,
                domains=domains,
                task_domains=asked,
                timed=timed,
                writes=own[0] if own else "",
                older=older,
            ),
        )
        if INITIAL in config.evaluate.baselines or older:
            models.append(stored(f"{name}.{INITIAL}", source=StudentLayout(name).initial, older=older))
        controls = [c for c in (f"{name}.{kind}" for kind in CONTROLS) if run.student_done(c) is not None]
        models += [stored(control, source=StudentLayout(control).final) for control in controls]
        if controls and (beside := compared_with_control(config, name)) != name:
            models.append(stored(beside, source=StudentLayout(name).at_control_tokens))
        if (settings := config.specialists[name].quantised) is not None:
            rounded = replace(stored(f"{name}.{PTQ}", source=StudentLayout(name).final), harness=False)
            models.append(replace(rounded, kind="ptq", rounding=settings.rounding()))
            if run.student_done(sibling := f"{name}.{QUANTISED}") is not None:
                models.append(replace(rounded, name=sibling, source=StudentLayout(sibling).final))
        models += _milestones(run, config, name, own)
    if run.student_done(GENERALIST) is not None:
        models += _milestones(run, config, GENERALIST, domains)
        generalist = ModelToScore(GENERALIST, "stored", StudentLayout(GENERALIST).final, domains)
        models.append(replace(generalist, task_domains=asked, harness=harness))
    if SINGLE_EXPERT in config.evaluate.baselines:
        fingerprint = TargetStore(run.storage, HELDOUT).header.teachers[config.first_teacher()]["fingerprint"]
        teacher = pinned(config.teachers[config.first_teacher()], fingerprint)
        cut = ModelToScore(SINGLE_EXPERT, "single_expert", teacher.model, (), teacher.revision)
        models += [replace(cut, domains=(d,)) for d in domains]
    if TEACHER_4BIT in config.evaluate.baselines:
        models.append(_teacher_4bit(run, config, domains, asked))
    for name, measured in config.evaluate.models.items():
        further = ModelToScore(name, "folder", measured.model, domains, measured.revision)
        models.append(replace(further, task_domains=asked, timed=timed, harness=harness))
    if config.evaluate.truth is not None:
        models += [ModelToScore(UNIGRAM, "unigram", "", (d,)) for d in domains]
    if config.evaluate.probes is not None:
        models.append(ModelToScore(TEACHER, "teacher", "", domains))
    return models + _whole_teachers(run, config, asked)


def _milestones(run: RunFolder, config: RunConfig, name: str, domains: tuple[str, ...]) -> list[ModelToScore]:
    """What a student was on the way, as far as it was kept."""
    settings = next(iter(config.specialists.values())) if name == GENERALIST else config.specialists[name]
    layout, models = StudentLayout(name), []
    for tokens in milestones_of(config, settings):
        kept = layout.milestone(tokens)
        if run.storage.exists(layout.snapshot_facts(kept)):
            models.append(ModelToScore(milestone_name(name, tokens), "milestone", layout.snapshot(kept), domains))
    return models


def _asked_domains(run: RunFolder, config: RunConfig) -> tuple[str, ...]:
    """The domains of the items of tasks."""
    units = asked_now(run.storage) if config.evaluate.tasks else []
    return tuple(sorted({domain for unit in units for domain in unit.domains}))


def _whole_teachers(run: RunFolder, config: RunConfig, asked: Sequence[str]) -> list[ModelToScore]:
    """The teachers that are asked the items of tasks, each those of the domains whose prompts it answers; those that
    are asked the tasks of lm-evaluation-harness; and the first one where it is timed."""
    cost, first, domains = config.evaluate.cost, config.first_teacher(), dict[str, list[str]]()
    standard = sorted(harness_teachers(config))
    timed = cost.measure and (bool(asked or standard) if cost.teacher is None else cost.teacher)
    for name in [first] * timed + standard:
        domains[name] = []
    for domain in asked:
        domains.setdefault(config.teacher_of(domain), []).append(domain)
    models = []
    for name, own in domains.items():
        model = whole_teacher(run, config, name)
        model = replace(model, task_domains=tuple(own), timed=timed and name == first)
        models.append(replace(model, harness=name in standard))
    return models


def _teacher_4bit(run: RunFolder, config: RunConfig, domains: Sequence[str], asked: Sequence[str]) -> ModelToScore:
    """The first teacher, rounded, on the domains that it answers: with another one it was never to agree."""
    first = config.first_teacher()
    own, own_asked = (tuple(d for d in some if config.teacher_of(d) == first) for some in (domains, asked))
    model = whole_teacher(run, config, first)
    return replace(model, name=TEACHER_4BIT, kind="teacher_4bit", domains=own, task_domains=own_asked)


def whole_teacher(run: RunFolder, config: RunConfig, name: str) -> ModelToScore:
    """A teacher, loaded whole."""
    teacher = pinned(config.teachers[name], teacher_fingerprint(run, name))
    whole = ModelToScore(TEACHER, "whole_teacher", teacher.model, (), teacher.revision, teacher.trust_remote_code)
    return replace(whole, teacher=name)


def teacher_fingerprint(run: RunFolder, name: str) -> str:
    """That of a teacher by the held-out store; empty where it answers nothing there."""
    return TargetStore(run.storage, HELDOUT).header.teachers.get(name, {}).get("fingerprint", "")
