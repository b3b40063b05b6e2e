"""Reading runs that were evaluated, to put them side by side: their reports, and the sums that differences are of."""

from __future__ import annotations

from orchestrator.config.schema import RunConfig
from orchestrator.reporting.report import Report
from orchestrator.reporting.side_by_side import ComparedRun
from orchestrator.runs.folder import RunFolder, find_run
from orchestrator.stages.scoring.models import models_to_score
from orchestrator.stages.scoring.tasks import all_tasks
from workers.evaluation.heldout.sums import from_bytes
from workers.evaluation.metrics.domain_scores import DomainScores, by_domain
from workers.layout import REPORT_JSON
from workers.splits import HELDOUT
from workers.targets.store import TargetStore


def compared_run(where: str) -> ComparedRun:
    """A run that has a report, by its name, folder or URI. Raises ValueError where it has none."""
    run = find_run(where)
    if not run.storage.exists(REPORT_JSON):
        raise ValueError(f"report: {run.uri} has no report yet; `stillhouse evaluate CONFIG` makes it")
    report = Report.from_json(run.storage.read(REPORT_JSON))
    digests = [entry.content_hash for entry in TargetStore(run.storage, HELDOUT).log.entries()]
    return ComparedRun(run.uri, report, _own_scores(run, run.located_config()), digests)


def _own_scores(run: RunFolder, config: RunConfig) -> dict[str, DomainScores]:
    """Of specialists on their own domains; of those whose scores are not all there (any more) nothing."""
    own = [model for model in models_to_score(run, config) if model.name in config.specialists]
    found = {}
    for task in all_tasks(run, config, own):
        keys = [unit.key for unit in task.units if unit.split == HELDOUT]
        sums = [from_bytes(data) for data in run.storage.read_many(keys) if data is not None]
        domain = config.own_domain(task.model.name) if task.model.name in config.specialists else ""
        if keys and len(sums) == len(keys) and not task.after and domain in (scores := by_domain(sums)):
            found[task.model.name] = scores[domain]
    return found
