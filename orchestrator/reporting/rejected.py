"""Which answers were rejected and why, counted by their domains."""

from __future__ import annotations

from collections import Counter
from functools import cached_property

from cluster.storage import Storage
from workers.manifest import read_plan
from workers.splits import TRAIN
from workers.targets.commits.log import Entry


class DomainsOfUnits:
    """The domains of training units, by unit; the plan is read when the first one is asked for."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    def __getitem__(self, unit: int) -> tuple[str, ...]:
        return self._all.get(unit, ())

    @cached_property
    def _all(self) -> dict[int, tuple[str, ...]]:
        return {u.index: u.domains for u in read_plan(self._storage, TRAIN).units}


class RejectedAnswers:
    """Training answers rejected, by domain and reason. One of several domains counts in each."""

    def __init__(self, domains: DomainsOfUnits) -> None:
        self._domains = domains
        self._found: dict[str, Counter[str]] = {}

    def add(self, entry: Entry) -> None:
        """Count what a unit's entry says."""
        if entry.rejected:
            for domain in self._domains[entry.unit]:
                self._found.setdefault(domain, Counter()).update(item["reason"] for item in entry.rejected)

    def counts(self) -> dict[str, dict[str, int]]:
        """By domain and reason, most of them first."""
        return {domain: dict(counts.most_common()) for domain, counts in sorted(self._found.items())}
