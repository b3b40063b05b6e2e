"""What an evaluation is made of: each model on each held-out unit, as files that are made once.

A file's name holds a digest of all that its scores depend on: the model's weights, the unit's bytes, the truth, the
kind of device. So an evaluation goes on where another stopped, and one with a new student scores that student alone.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

from orchestrator.config.schema import RunConfig
from orchestrator.config.students import (
    GENERALIST,
    HARD_LABELS,
    INITIAL,
    SINGLE_EXPERT,
    TEACHER,
    UNIGRAM,
    compared_with_control,
    milestone_name,
    milestones_of,
)
from orchestrator.reporting.evaluation import Results
from orchestrator.reporting.measures.tasks import Answered
from orchestrator.runs.errors import RunFailed
from orchestrator.runs.folder import RunFolder
from orchestrator.stages.capture import pinned
from workers.evaluation.cost import Speed
from workers.evaluation.heldout.sums import from_bytes
from workers.evaluation.job import ModelToScore, ScoringTask, UnitToScore, unscored
from workers.evaluation.metrics.domain_scores import by_domain
from workers.evaluation.tasks.answers import answers_from_bytes
from workers.evaluation.tasks.asked import AskedItems, asked_now
from workers.evaluation.tasks.items import TaskAnswer, TaskItem
from workers.fingerprint import hash_json, model_fingerprint
from workers.layout import StudentLayout, score_key
from workers.manifest import read_plan
from workers.splits import HELDOUT, OWN, OWN_COMPARED, PROBES, SPEED, TASKS, TRAIN
from workers.targets.commits.log import Entry
from workers.targets.store import TargetStore

_FORMAT = 2
"""Of a file of scores. Whoever changes what is summed, or how, raises it."""

_ANSWERS_FORMAT = 1
"""Of a file of answers. Whoever changes how items are asked or marked raises it."""

_OWN_FORMAT = 1
"""Of a student's own text and of its scores there. Whoever changes either raises it."""

_SPEED_FORMAT = 1
"""Of a file that says how fast a model is. Whoever changes what is measured raises it."""

_TASKS_PER_WORKER = 2
"""Tasks for each process at least: fewer would leave some idle at the end, more load a model again."""


def models_to_score(run: RunFolder, config: RunConfig) -> list[ModelToScore]:
    """Every trained specialist, and every further model, on every held-out domain and on every task; what stands beside
    specialists on their own domain; the teacher itself, for the probes and tasks."""
    domains = tuple(read_plan(run.storage, HELDOUT).domains)
    asked, timed = _asked_domains(run, config), config.evaluate.cost.measure
    models = []
    for name in config.specialists:
        if run.student_done(name) is None:
            continue
        own, own_asked = ((d,) if (d := config.own_domain(name)) in known else () for known in (domains, asked))
        stored = partial(ModelToScore, kind="stored", domains=own, task_domains=own_asked)
        models.append(
            stored(
                name,
                source=StudentLayout(name).final,
                domains=domains,
                task_domains=asked,
                timed=timed,
                writes=own[0] if own else "",
            ),
        )
        if INITIAL in config.evaluate.baselines:
            models.append(stored(f"{name}.{INITIAL}", source=StudentLayout(name).initial))
        control = f"{name}.{HARD_LABELS}"
        if run.student_done(control) is not None:
            models.append(stored(control, source=StudentLayout(control).final))
            if (beside := compared_with_control(config, name)) != name:
                models.append(stored(beside, source=StudentLayout(name).at_control_tokens))
        models += _milestones(run, config, name, own)
    if run.student_done(GENERALIST) is not None:
        models += _milestones(run, config, GENERALIST, domains)
        models.append(ModelToScore(GENERALIST, "stored", StudentLayout(GENERALIST).final, domains, task_domains=asked))
    if SINGLE_EXPERT in config.evaluate.baselines:
        fingerprint = TargetStore(run.storage, HELDOUT).header.teachers[config.first_teacher()]["fingerprint"]
        teacher = pinned(config.teachers[config.first_teacher()], fingerprint)
        cut = ModelToScore(SINGLE_EXPERT, "single_expert", teacher.model, (), teacher.revision)
        models += [replace(cut, domains=(d,)) for d in domains]
    for name, measured in config.evaluate.models.items():
        further = ModelToScore(name, "folder", measured.model, domains, measured.revision)
        models.append(replace(further, task_domains=asked, timed=timed))
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
    """The teachers that are asked the items of tasks, each those of the domains whose prompts it answers, and the first
    one where it is timed."""
    cost, first, domains = config.evaluate.cost, config.first_teacher(), dict[str, list[str]]()
    timed = cost.measure and (bool(asked) if cost.teacher is None else cost.teacher)
    if timed:
        domains[first] = []
    for domain in asked:
        domains.setdefault(config.teacher_of(domain), []).append(domain)
    models = []
    for name, own in domains.items():
        model = _whole_teacher(run, config, name)
        models.append(replace(model, task_domains=tuple(own), timed=timed and name == first))
    return models


def _teacher_fingerprint(run: RunFolder, name: str) -> str:
    """That of a teacher by the held-out store; empty where it answers nothing there."""
    return TargetStore(run.storage, HELDOUT).header.teachers.get(name, {}).get("fingerprint", "")


def all_tasks(run: RunFolder, config: RunConfig, models: Sequence[ModelToScore]) -> list[ScoringTask]:
    """Each model with all of its units, whether they are scored or not.

    Raises ValueError if held-out units are not captured yet.
    """
    units = {split: _committed_units(run, split) for split in (HELDOUT, PROBES)}
    items = asked_now(run.storage) if config.evaluate.tasks else []
    common = [_FORMAT, _truth_digest(config.evaluate.truth), config.evaluate.gpus > 0]
    digest_of = cache(partial(_weights_digest, run, config))  # of several domains, a kind's weights are the same
    tasks = []
    for model in models:
        weights = digest_of(model.kind, model.source, model.revision)
        mine = []
        for split in _splits(model):
            for entry, domains in units[split]:
                if set(model.domains) & set(domains):
                    parts = [part.sha256 for part in entry.parts]
                    digest = hash_json([*common, model.domains, weights, parts])[:16]
                    mine.append(UnitToScore(split, entry.unit, score_key(model.name, split, entry.unit, digest)))
        if model.timed:
            cost = config.evaluate.cost
            digest = hash_json([_SPEED_FORMAT, common[-1], weights, cost.batch, cost.new_tokens])[:16]
            mine.append(UnitToScore(SPEED, 0, score_key(model.name, SPEED, 0, digest)))
        for unit in items:
            if own := sorted(set(model.task_domains) & set(unit.domains)):
                digest = hash_json([_ANSWERS_FORMAT, common[-1], own, weights, unit.key])[:16]
                # Without a number: another task before this one makes no answer of this one's new.
                mine.append(UnitToScore(TASKS, 0, score_key(model.name, TASKS, 0, digest), unit.key))
        if model.writes and (settings := config.evaluate.own_text) is not None:
            parts = [part.sha256 for entry, _ in units[HELDOUT] for part in entry.parts]
            digest = hash_json([_OWN_FORMAT, common[-1], weights, parts, config.seed, settings.model_dump()])[:16]
            mine.append(UnitToScore(OWN, 0, score_key(model.name, OWN, 0, digest)))
        tasks.append(ScoringTask(model, tuple(mine)))
    return [*tasks, *_compared_own(run, config, tasks)]


def _compared_own(run: RunFolder, config: RunConfig, tasks: Sequence[ScoringTask]) -> list[ScoringTask]:
    """Teachers beside what students wrote themselves."""
    of_teacher: dict[str, list[UnitToScore]] = {}
    for task in tasks:
        for unit in task.units:
            if unit.split == OWN:
                name = config.teacher_of(task.model.writes)
                digest = hash_json([_OWN_FORMAT, unit.key, _teacher_fingerprint(run, name)])[:16]
                key = score_key(TEACHER, f"{OWN_COMPARED}-{task.model.name}", 0, digest)
                compared = UnitToScore(OWN_COMPARED, 0, key, items=unit.key, student=task.model)
                of_teacher.setdefault(name, []).append(compared)
    return [ScoringTask(_whole_teacher(run, config, n), tuple(u), after=True) for n, u in of_teacher.items()]


def _whole_teacher(run: RunFolder, config: RunConfig, name: str) -> ModelToScore:
    teacher = pinned(config.teachers[name], _teacher_fingerprint(run, name))
    return ModelToScore(TEACHER, "whole_teacher", teacher.model, (), teacher.revision, teacher.trust_remote_code)


def missing_tasks(run: RunFolder, tasks: Sequence[ScoringTask], workers: int) -> list[ScoringTask]:
    """What of tasks is not scored yet, a model's after another's, in pieces for so many processes."""
    missing = [replace(task, units=units) for task in tasks if (units := unscored(run.storage, task))]
    pieces = 1 if workers == 1 else math.ceil(_TASKS_PER_WORKER * workers / max(len(missing), 1))
    return [
        replace(task, units=task.units[i : i + size])
        for task in missing
        for size in [math.ceil(len(task.units) / pieces)]
        for i in range(0, len(task.units), size)
    ]


def gathered(run: RunFolder, tasks: Sequence[ScoringTask]) -> Results:
    """The scores of all tasks, by model and domain. Raises RunFailed where one is not there (any more)."""
    results, items_of = Results({}, {}), cache(partial(_items, run))
    for task in tasks:
        name, sums = task.model.name, []
        asked = task.model.domains if PROBES in _splits(task.model) else ()
        ranks = results.probes.setdefault(name, {}) if asked else {}
        ranks |= {domain: [] for domain in asked}
        units = [unit for unit in task.units if unit.split != OWN]  # of which only what is compared is told
        for unit, data in zip(units, run.storage.read_many([unit.key for unit in units]), strict=True):
            if data is None:
                raise RunFailed(f"evaluate: {unit.key} was deleted meanwhile; run `stillhouse evaluate CONFIG` again")
            if unit.split == HELDOUT:
                sums.append(from_bytes(data))
                continue
            if unit.split == OWN_COMPARED and unit.student is not None:
                results.own[unit.student.name] = by_domain([from_bytes(data)])[unit.student.writes]
                continue
            if unit.split == SPEED:
                results.speeds[name] = Speed.from_bytes(data)
                continue
            if unit.split == TASKS:
                _gather_answers(results.answers.setdefault(name, {}), items_of(unit.items), answers_from_bytes(data))
                continue
            for domain, found in json.loads(data).items():
                ranks[domain].extend(found)
        if sums:
            results.scores.setdefault(name, {}).update(by_domain(sums))
    return results


def _items(run: RunFolder, key: str) -> dict[str, TaskItem]:
    """The items of a file by uid."""
    return {one.item.uid: one.item for one in AskedItems.from_bytes(run.storage.read(key)).items}


def _gather_answers(found: dict[str, list[Answered]], items: dict[str, TaskItem], answers: list[TaskAnswer]) -> None:
    for answer in answers:
        item = items[answer.uid]
        found.setdefault(item.domain, []).append((item, answer))


def _committed_units(run: RunFolder, split: str) -> list[tuple[Entry, tuple[str, ...]]]:
    """Entries of a split's units with their domains, in plan order; none where there is no such split."""
    try:
        plan = read_plan(run.storage, split)
    except FileNotFoundError:
        return []
    entries = {entry.unit: entry for entry in TargetStore(run.storage, split).log.entries()}
    if lacking := [u.index for u in plan.units if u.index not in entries]:
        raise ValueError(
            f"evaluate: unit {lacking[0]} of the {split} store is not captured yet; run `stillhouse capture` first"
        )
    return [(entries[unit.index], unit.domains) for unit in plan.units]


def _splits(model: ModelToScore) -> tuple[str, ...]:
    """What a model is scored on."""
    few = {"teacher": (PROBES,), "unigram": (HELDOUT,), "milestone": (HELDOUT,), "whole_teacher": ()}
    return few.get(model.kind, (HELDOUT, PROBES))


def _weights_digest(run: RunFolder, config: RunConfig, kind: str, source: str, revision: str | None) -> str:
    """A digest of what a model is: of one in the run its files with their times, so that one made anew is scored
    anew."""
    state: Any
    if kind in ("stored", "milestone"):
        state = [[f.key, f.bytes, f.modified] for f in run.storage.listing(source)]
    elif kind == "folder":
        state = model_fingerprint(source, revision)
    elif kind == "single_expert":
        state = TargetStore(run.storage, HELDOUT).header.teachers[config.first_teacher()]["fingerprint"]
    elif kind == "whole_teacher":
        names = [n for n, t in config.teachers.items() if t.model == source]
        state = [source, *(_teacher_fingerprint(run, name) for name in names)]
    elif kind == "teacher":
        state = ""  # its probabilities are in the units
    else:
        state = [[entry.unit, entry.content_hash] for entry in TargetStore(run.storage, TRAIN).log.each()]
    return hash_json([kind, state])


def _truth_digest(truth: str | None) -> str:
    """A digest of the code that knows the truth."""
    if truth is None:
        return ""
    path, _, name = truth.rpartition(":")
    return hash_json([name, Path(path).read_text(encoding="utf-8")])
