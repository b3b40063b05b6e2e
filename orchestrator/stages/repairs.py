"""Damaged units: which are to be recomputed, and as which revision."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from orchestrator.runs.errors import RunFailed
from orchestrator.runs.folder import RunFolder
from workers.layout import StoreLayout
from workers.targets.commits.damage import MOST_REVISIONS, given_up
from workers.targets.commits.log import Entry
from workers.targets.store import TargetStore


def units_to_repair(run: RunFolder, split: str, entries: Iterable[Entry]) -> tuple[set[int], dict[int, int]]:
    """Which units have an entry; and those that are marked damaged, or whose part is missing or of another size, with
    the revision to make of each.

    `entries` are the newest ones of the split's log, listed before this is called, so that their parts are there.
    Bytes that changed in place are found by whoever reads them. Raises RunFailed for a unit that was repaired
    `MOST_REVISIONS` times.
    """
    sizes = {f.key: f.bytes for f in run.storage.listing(StoreLayout(split).parts)}
    marks = TargetStore(run.storage, split).log.damaged()
    found = {d.unit: (d.revision, d.reason) for d in marks}
    committed: set[int] = set()
    for entry in entries:
        committed.add(entry.unit)
        for part in entry.parts:
            if sizes.get(part.key) != part.bytes:
                size = f"has {sizes[part.key]} bytes instead of {part.bytes}" if part.key in sizes else "is missing"
                found.setdefault(entry.unit, (entry.revision, f"its part {part.key} {size}"))
    damaged = {u: _next_revision(run, split, u, revision, why) for u, (revision, why) in sorted(found.items())}
    return committed, damaged


def rows_of_marked(run: RunFolder, split: str, units: set[int]) -> list[dict[str, Any]]:
    """Rows of a capture pass over those of `units` that are marked damaged and not repaired yet. Raises as above."""
    damages = [d for d in TargetStore(run.storage, split).log.damaged() if d.unit in units]
    return [
        {"split": split, "unit": d.unit, "repair": _next_revision(run, split, d.unit, d.revision, d.reason)}
        for d in damages
    ]


def _next_revision(run: RunFolder, split: str, unit: int, revision: int, reason: str) -> int:
    """The revision to make of a unit whose `revision` is damaged."""
    if revision >= MOST_REVISIONS:
        raise RunFailed(given_up(split, unit, revision, run.uri, reason))
    return revision + 1
