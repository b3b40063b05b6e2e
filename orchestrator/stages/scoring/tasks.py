"""What an evaluation is made of: each model on each held-out unit, as files that are made once.

A file's name holds a digest of all that its scores depend on: the model's weights, the unit's bytes, the truth, the
kind of device. So an evaluation goes on where another stopped, and one with a new student scores that student alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

from orchestrator.config.schema import RunConfig
from orchestrator.config.students import HARD_LABELS, TEACHER
from orchestrator.runs.folder import RunFolder
from orchestrator.runs.generations import generation_name, older_runs
from orchestrator.stages.scoring.bridges import compared_bridges, units_of_bridges
from orchestrator.stages.scoring.models import teacher_fingerprint, whole_teacher
from workers.evaluation.harness.asked import harness_asked
from workers.evaluation.job import ModelToScore, ScoringTask, TextsToShow, UnitToScore, unscored
from workers.evaluation.tasks.asked import asked_now
from workers.fingerprint import hash_json, model_fingerprint
from workers.layout import StudentLayout, score_key
from workers.manifest import read_plan
from workers.splits import HARNESS, HELDOUT, OLDER, OWN, OWN_COMPARED, PROBES, SHOWN, SPEED, TASKS, TRAIN, WEIGHTS
from workers.targets.commits.log import Entry
from workers.targets.store import TargetStore

_FORMAT = 2
"""Of a file of scores. Whoever changes what is summed, or how, raises it."""

_ANSWERS_FORMAT = 1
"""Of a file of answers. Whoever changes how items are asked or marked raises it."""

_HARNESS_FORMAT = 1
"""Of a file of answers to a task of lm-evaluation-harness. Whoever changes how models are asked raises it."""

_OWN_FORMAT = 1
"""Of a student's own text and of its scores there. Whoever changes either raises it."""

_ROUNDING_FORMAT = 1
"""Of a teacher at 4 bit. Whoever changes how weights are rounded raises it."""

_PTQ_FORMAT = 1
"""Of a specialist whose weights are rounded. Whoever changes how raises it."""

_SHOWN_FORMAT = 2
"""Of a file of texts token by token. Whoever changes what is shown, or which texts, raises it."""

_SPEED_FORMAT = 1
"""Of a file that says how fast a model is. Whoever changes what is measured raises it."""

_TASKS_PER_WORKER = 2
"""Tasks for each process at least: fewer would leave some idle at the end, more load a model again."""


def all_tasks(run: RunFolder, config: RunConfig, models: Sequence[ModelToScore]) -> list[ScoringTask]:
    """Each model with all of its units, whether they are scored or not.

    Raises ValueError if held-out units are not captured yet.
    """
    digest_of = cache(partial(_weights_digest, run, config))  # of several domains, a kind's weights are the same
    units = _Units(run, config, models, digest_of)
    tasks = [ScoringTask(model, tuple(units.of(model))) for model in models]
    later = [*_compared_own(run, config, tasks), *_shown(config, tasks, digest_of)]
    return [*tasks, *_joined([*later, *compared_bridges(config, tasks, digest_of)])]


class _Units:
    """What there is to score models on in the first round."""

    def __init__(
        self, run: RunFolder, config: RunConfig, models: Sequence[ModelToScore], digest_of: Callable[..., str]
    ) -> None:
        self._config, self._models, self._digest_of = config, models, digest_of
        self._committed = {split: _committed_units(run, split) for split in (HELDOUT, PROBES)}
        self._items = asked_now(run.storage) if config.evaluate.tasks else []
        self._harness = harness_asked(run.storage) if config.evaluate.harness is not None else []
        self._on_gpus = config.evaluate.gpus > 0
        self._truth = _truth_digest(config.evaluate.truth)
        older = older_runs(run, config.continues) if any(model.older for model in models) else []
        self._older = [((generation_name(o, run), o.uri), _committed_units(o, HELDOUT)) for o in older]

    def of(self, model: ModelToScore) -> Iterator[UnitToScore]:
        """Those of one model."""
        config, weights = self._config.evaluate, self._digest_of(model.kind, model.source, model.revision)
        yield from self._of_splits(model, weights)
        yield from self._of_older(model, weights)
        if model.timed:
            asked = [config.cost.batch, config.cost.new_tokens]
            yield self._alone(model, SPEED, [_SPEED_FORMAT, self._on_gpus, weights, *asked])
        if model.kind == "teacher_4bit":
            yield UnitToScore(WEIGHTS, 0, score_key(model.name, WEIGHTS, 0, weights[:16]))
        for unit in self._items:
            if own := sorted(set(model.task_domains) & set(unit.domains)):
                # Without a number: another task before this one makes no answer of this one's new.
                yield self._alone(model, TASKS, [_ANSWERS_FORMAT, self._on_gpus, own, weights, unit.key], unit.key)
        for task in self._harness if model.harness else ():
            yield self._alone(model, HARNESS, [_HARNESS_FORMAT, self._on_gpus, weights, task.digest], task.name)
        if model.kind == "whole_teacher":
            yield from units_of_bridges(self._config, model, self._models, self._items, [self._on_gpus, weights])
        if model.writes and (own_text := config.own_text) is not None:
            parts = [part.sha256 for entry, _ in self._committed[HELDOUT] for part in entry.parts]
            told = [parts, self._config.seed, own_text.model_dump()]
            yield self._alone(model, OWN, [_OWN_FORMAT, self._on_gpus, weights, *told])

    def _of_splits(self, model: ModelToScore, weights: str) -> Iterator[UnitToScore]:
        common = [_FORMAT, self._truth, self._on_gpus]
        for split in splits_of(model):
            for entry, domains in self._committed[split]:
                if set(model.domains) & set(domains):
                    parts = [part.sha256 for part in entry.parts]
                    digest = hash_json([*common, model.domains, weights, parts])[:16]
                    yield UnitToScore(split, entry.unit, score_key(model.name, split, entry.unit, digest))

    def _of_older(self, model: ModelToScore, weights: str) -> Iterator[UnitToScore]:
        """Held-out units of older generations that have the model's domain."""
        for (name, uri), units in self._older if model.older else ():
            for entry, domains in units:
                if model.older in domains:
                    parts = [part.sha256 for part in entry.parts]
                    digest = hash_json([_FORMAT, self._on_gpus, model.older, weights, uri, parts])[:16]
                    key = score_key(model.name, f"{OLDER}-{name}", entry.unit, digest)
                    yield UnitToScore(OLDER, entry.unit, key, run=(name, uri))

    @staticmethod
    def _alone(model: ModelToScore, split: str, told: list[Any], items: str = "") -> UnitToScore:
        """The one piece of its kind, by all that it depends on."""
        return UnitToScore(split, 0, score_key(model.name, split, 0, hash_json(told)[:16]), items)


def _joined(later: Sequence[ScoringTask]) -> list[ScoringTask]:
    """A task for each model: it is loaded once in a round."""
    units: dict[ModelToScore, tuple[UnitToScore, ...]] = {}
    for task in later:
        units[task.model] = (*units.get(task.model, ()), *task.units)
    return [ScoringTask(model, own, after=True) for model, own in units.items()]


def _shown(config: RunConfig, tasks: Sequence[ScoringTask], digest_of: Callable[..., str]) -> list[ScoringTask]:
    """Texts token by token: of each specialist on its own domain, chosen by its scores, and of its control beside it;
    of each further model on all domains."""
    by_name, units = {task.model.name: task for task in tasks}, dict[str, list[UnitToScore]]()
    whose: list[tuple[str, str, tuple[str, ...]]]
    whose = [(n, d, (n, f"{n}.{HARD_LABELS}")) for n in config.specialists for d in [config.own_domain(n)]]
    whose += [(n, d, (n,)) for n in config.evaluate.models if n in by_name for d in by_name[n].model.domains]
    for name, domain, shown in whose if config.evaluate.shown_texts else ():
        if name not in by_name or domain not in by_name[name].model.domains:
            continue
        sums = tuple(unit.key for unit in by_name[name].units if unit.split == HELDOUT)
        wanted = TextsToShow(domain, sums, config.evaluate.shown_texts)
        for model in (by_name[n].model for n in shown if n in by_name):
            weights = digest_of(model.kind, model.source, model.revision)
            digest = hash_json([_SHOWN_FORMAT, domain, sums, wanted.worst, config.seed, weights])[:16]
            key = score_key(model.name, f"{SHOWN}-{domain}", 0, digest)
            units.setdefault(model.name, []).append(UnitToScore(SHOWN, 0, key, shown=wanted))
    return [ScoringTask(by_name[name].model, tuple(own), after=True) for name, own in units.items()]


def _compared_own(run: RunFolder, config: RunConfig, tasks: Sequence[ScoringTask]) -> list[ScoringTask]:
    """Teachers beside what students wrote themselves."""
    of_teacher: dict[str, list[UnitToScore]] = {}
    for task in tasks:
        for unit in task.units:
            if unit.split == OWN:
                name = config.teacher_of(task.model.writes)
                digest = hash_json([_OWN_FORMAT, unit.key, teacher_fingerprint(run, name)])[:16]
                key = score_key(TEACHER, f"{OWN_COMPARED}-{task.model.name}", 0, digest)
                compared = UnitToScore(OWN_COMPARED, 0, key, items=unit.key, student=task.model)
                of_teacher.setdefault(name, []).append(compared)
    return [ScoringTask(whole_teacher(run, config, n), tuple(u), after=True) for n, u in of_teacher.items()]


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


def splits_of(model: ModelToScore) -> tuple[str, ...]:
    """What a model is scored on."""
    few = {"teacher": (PROBES,), "unigram": (HELDOUT,), "milestone": (HELDOUT,), "whole_teacher": ()}
    return few.get(model.kind, (HELDOUT, PROBES))


def _weights_digest(run: RunFolder, config: RunConfig, kind: str, source: str, revision: str | None) -> str:
    """A digest of what a model is: of one in the run its files with their times, so that one made anew is scored
    anew."""
    state: Any
    if kind in ("stored", "milestone", "ptq"):
        state = [[f.key, f.bytes, f.modified] for f in run.storage.listing(source)]
        state += [_roundings(config, source)] if kind == "ptq" else []
    elif kind == "folder":
        state = model_fingerprint(source, revision)
    elif kind == "single_expert":
        state = TargetStore(run.storage, HELDOUT).header.teachers[config.first_teacher()]["fingerprint"]
    elif kind in ("whole_teacher", "teacher_4bit"):
        names = [n for n, t in config.teachers.items() if t.model == source]
        state = [source, *(teacher_fingerprint(run, name) for name in names)]
        state += [_ROUNDING_FORMAT] if kind == "teacher_4bit" else []
    elif kind == "teacher":
        state = ""  # its probabilities are in the units
    else:
        state = [[entry.unit, entry.content_hash] for entry in TargetStore(run.storage, TRAIN).log.each()]
    return hash_json([kind, state])


def _roundings(config: RunConfig, source: str) -> list[Any]:
    """How the weights of a specialist, by the folder of its trained model, are rounded."""
    of_source = [s for name, s in config.specialists.items() if StudentLayout(name).final == source]
    return [_PTQ_FORMAT, *(s.quantised.rounding().model_dump() for s in of_source if s.quantised is not None)]


def _truth_digest(truth: str | None) -> str:
    """A digest of the code that knows the truth."""
    if truth is None:
        return ""
    path, _, name = truth.rpartition(":")
    return hash_json([name, Path(path).read_text(encoding="utf-8")])
