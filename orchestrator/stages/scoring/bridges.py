"""Which teachers look for bridges in which domains, and which models are looked at there in a second round."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from orchestrator.config.schema import RunConfig
from orchestrator.config.students import HARD_LABELS, INITIAL
from workers.evaluation.job import ModelToScore, ScoringTask, UnitToScore
from workers.evaluation.tasks.asked import ItemsUnit
from workers.fingerprint import hash_json
from workers.layout import score_key
from workers.splits import BRIDGES, BRIDGES_COMPARED

_FORMAT = 1
"""Of what is kept of bridges. Whoever changes how they are found or compared raises it."""


def units_of_bridges(
    config: RunConfig,
    teacher: ModelToScore,
    models: Sequence[ModelToScore],
    items: Sequence[ItemsUnit],
    state: Sequence[Any],
) -> list[UnitToScore]:
    """Of a whole teacher, one for each domain of its items that one of the models is looked at in. `state`: what its
    answers depend on."""
    settings, units = config.evaluate.bridges, []
    if settings is None:
        return []
    of_model = _domains_by_model(config, teacher.task_domains)
    wanted = {domain for model in models for domain in of_model.get(model.name, ())}
    for domain in sorted(wanted & set(teacher.task_domains)):
        files = tuple(unit.key for unit in items if domain in unit.domains)
        digest = hash_json([_FORMAT, *state, domain, files, config.seed, settings.model_dump()])[:16]
        units.append(UnitToScore(BRIDGES, 0, score_key(teacher.name, BRIDGES, 0, digest), domain=domain, files=files))
    return units


def compared_bridges(
    config: RunConfig, tasks: Sequence[ScoringTask], weights_of: Callable[..., str]
) -> list[ScoringTask]:
    """Specialists, their controls and further models at the bridges of their teachers."""
    found = {u.domain: (t.model, u) for t in tasks for u in t.units if u.split == BRIDGES}
    of_model = _domains_by_model(config, sorted(found))
    compared = []
    for task in tasks:
        model, mine = task.model, []
        for domain in of_model.get(model.name, ()):
            if domain in found and domain in model.task_domains and model.kind in ("stored", "folder"):
                teacher, unit = found[domain]
                weights = weights_of(model.kind, model.source, model.revision)
                digest = hash_json([_FORMAT, config.evaluate.gpus > 0, weights, unit.key])[:16]
                key = score_key(model.name, BRIDGES_COMPARED, 0, digest)
                mine.append(
                    UnitToScore(
                        BRIDGES_COMPARED, 0, key, items=unit.key, teacher=teacher, domain=domain, files=unit.files
                    )
                )
        if mine:
            compared.append(ScoringTask(model, tuple(mine), after=True))
    return compared


def _domains_by_model(config: RunConfig, asked: Sequence[str]) -> dict[str, Sequence[str]]:
    """Where each model is looked at: a specialist and its controls on its own domain, other models on all."""
    found: dict[str, Sequence[str]] = dict.fromkeys(config.evaluate.models, asked)
    for name in config.specialists:
        own = (config.own_domain(name),)
        found |= {name: own, f"{name}.{INITIAL}": own, f"{name}.{HARD_LABELS}": own}
    return found
