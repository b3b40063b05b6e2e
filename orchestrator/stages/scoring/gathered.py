"""What was made of all tasks, put together by model and domain."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache, partial

import pyarrow as pa

from orchestrator.reporting.evaluation import Results
from orchestrator.reporting.measures.tasks import Answered
from orchestrator.runs.errors import RunFailed
from orchestrator.runs.folder import RunFolder
from orchestrator.stages.scoring.tasks import splits_of
from workers.evaluation.bridges.texts import BridgeFindings
from workers.evaluation.cost import RoundedWeights, Speed
from workers.evaluation.harness.answers import answers_from_bytes as harness_from_bytes
from workers.evaluation.heldout.sums import from_bytes
from workers.evaluation.job import ScoringTask
from workers.evaluation.metrics.domain_scores import by_domain
from workers.evaluation.shown_texts import from_bytes as texts_from_bytes
from workers.evaluation.tasks.answers import answers_from_bytes
from workers.evaluation.tasks.asked import AskedItems
from workers.evaluation.tasks.items import TaskAnswer, TaskItem
from workers.splits import (
    BRIDGES,
    BRIDGES_COMPARED,
    HARNESS,
    HELDOUT,
    OLDER,
    OWN,
    OWN_COMPARED,
    PROBES,
    SHOWN,
    SPEED,
    TASKS,
    WEIGHTS,
)


def gathered(run: RunFolder, tasks: Sequence[ScoringTask]) -> Results:
    """The scores of all tasks, by model and domain. Raises RunFailed where one is not there (any more)."""
    results, items_of = Results({}, {}), cache(partial(_items, run))
    for task in tasks:
        name, sums, older = task.model.name, [], dict[str, list[pa.Table]]()
        asked = task.model.domains if PROBES in splits_of(task.model) else ()
        ranks = results.probes.setdefault(name, {}) if asked else {}
        for domain in asked:  # a model may have a second task, which comes after its probes
            ranks.setdefault(domain, [])
        units = [unit for unit in task.units if unit.split not in (OWN, BRIDGES)]  # what is compared is told
        for unit, data in zip(units, run.storage.read_many([unit.key for unit in units]), strict=True):
            if data is None:
                raise RunFailed(f"evaluate: {unit.key} was deleted meanwhile; run `stillhouse evaluate CONFIG` again")
            if unit.split == HELDOUT:
                sums.append(from_bytes(data))
                continue
            if unit.split == OLDER:
                older.setdefault(unit.run[0], []).append(from_bytes(data))
                continue
            if unit.split == OWN_COMPARED and unit.student is not None:
                results.own[unit.student.name] = by_domain([from_bytes(data)])[unit.student.writes]
                continue
            if unit.split == BRIDGES_COMPARED:
                results.bridges.setdefault(name, {})[unit.domain] = BridgeFindings.from_bytes(data)
                continue
            if unit.split == SHOWN and unit.shown is not None:
                results.texts.setdefault(name, {})[unit.shown.domain] = texts_from_bytes(data)
                continue
            if unit.split == SPEED:
                results.speeds[name] = Speed.from_bytes(data)
                continue
            if unit.split == WEIGHTS:
                results.rounded = RoundedWeights.from_bytes(data)
                continue
            if unit.split == TASKS:
                _gather_answers(results.answers.setdefault(name, {}), items_of(unit.items), answers_from_bytes(data))
                continue
            if unit.split == HARNESS:
                of_model = results.harness.setdefault((name, task.model.teacher), {})
                of_model.update(harness_from_bytes(data))
                continue
            for domain, places in json.loads(data).items():
                ranks[domain].extend(places)
        if sums:
            results.scores.setdefault(name, {}).update(by_domain(sums))
        for generation, tables in older.items():
            if task.model.older in (found := by_domain(tables)):
                results.older.setdefault(name, {})[generation] = found[task.model.older]
    return results


def _items(run: RunFolder, key: str) -> dict[str, TaskItem]:
    """The items of a file by uid."""
    return {one.item.uid: one.item for one in AskedItems.from_bytes(run.storage.read(key)).items}


def _gather_answers(found: dict[str, list[Answered]], items: dict[str, TaskItem], answers: list[TaskAnswer]) -> None:
    for answer in answers:
        item = items[answer.uid]
        found.setdefault(item.domain, []).append((item, answer))
