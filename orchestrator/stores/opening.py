"""One target store of a run, opened to be looked at."""

from __future__ import annotations

import json
from dataclasses import dataclass

from orchestrator.runs.folder import RunFolder, find_run
from workers.layout import StoreLayout
from workers.manifest import read_plan
from workers.splits import SPLITS
from workers.targets.commits.log import Entry
from workers.targets.commits.sums import EntrySums
from workers.targets.store import TargetStore
from workers.units import UnitPlan


@dataclass(frozen=True)
class OpenTargets:
    """A store whose header can be read, with the plan of its units."""

    run: RunFolder
    store: TargetStore
    plan: UnitPlan

    def domains_of(self, unit: int) -> tuple[str, ...]:
        """Domains of a planned unit; none for one that the plan does not have."""
        return self.plan.units[unit].domains if unit < len(self.plan.units) else ()

    def facts(self) -> dict[str, str]:
        """What every answer about it begins with."""
        return {"run": self.run.uri, "split": self.store.split}


def open_targets(where: str, split: str) -> OpenTargets:
    """The store of a split of the run that `where` names (as `find_run` takes it).

    Raises ValueError where there is none yet, naming those that there are, or where its format is another version's.
    """
    if split not in SPLITS:
        raise ValueError(f"--split {split}: no such split; there are {', '.join(SPLITS)}")
    run = find_run(where)
    store = TargetStore(run.storage, split)
    try:
        plan, _ = read_plan(run.storage, split), store.header
    except FileNotFoundError:
        there = [s for s in SPLITS if _exists(run, s)]
        raise ValueError(
            f"targets: the run at {run.uri} has no {split} targets; "
            + (f"it has {', '.join(there)} (--split)" if there else "`stillhouse capture CONFIG` makes them")
        ) from None
    except json.JSONDecodeError as error:
        raise ValueError(f"targets: header or plan of the {split} targets at {run.uri} is damaged: {error}") from None
    return OpenTargets(run, store, plan)


def per_token(amount: float, targets: int) -> float:
    """So much for each target token; 0 where there are none."""
    return round(amount / targets, 2) if targets else 0.0


def kept_of(source: OpenTargets, entry: Entry | EntrySums) -> int:
    """Kept entries of a unit, or of several; a `full` store keeps one for every id."""
    header = source.store.header
    return entry.num_kept if header.sampled else entry.targets * header.vocabulary


def _exists(run: RunFolder, split: str) -> bool:
    try:
        read_plan(run.storage, split)
    except FileNotFoundError:
        return False
    return run.storage.exists(StoreLayout(split).header)
