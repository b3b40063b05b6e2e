"""Rows of a captured split as models are scored on them: a unit at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from cluster.storage import Storage
from workers.manifest import Manifest, read_plan
from workers.targets.reader import TargetRow, rows_of
from workers.targets.store import TargetStore


class CommittedRows:
    """The committed rows of a split, a unit at a time."""

    def __init__(self, storage: Storage, split: str) -> None:
        self.store, self._manifest = TargetStore(storage, split), Manifest(storage, split)
        self._storage, self._split = storage, split

    def rows(self, unit: int, domains: Sequence[str]) -> list[tuple[TargetRow, tuple[str, ...]]]:
        """Rows of a unit with those of their domains that are asked for, if any."""
        entry = self.store.log.entry(unit)
        if entry is None:
            raise ValueError(f"evaluate: unit {unit} of the {self._split} store is not there any more")
        of_prompt = {p.id: tuple(d for d in domains if d in p.domains) for p in self._manifest.prompts(unit)}
        targets = self.store.read_or_mark(entry, "evaluate", "stillhouse evaluate CONFIG")
        rows = rows_of(targets, self.store.header, entry.teacher)
        return [(row, of_prompt[row.prompt_uid]) for row in rows if of_prompt[row.prompt_uid]]

    def all_rows(self, domain: str) -> Iterator[TargetRow]:
        """Rows of a domain, in plan order."""
        for unit in read_plan(self._storage, self._split).of_domain(domain):
            yield from (row for row, _ in self.rows(unit, (domain,)))
