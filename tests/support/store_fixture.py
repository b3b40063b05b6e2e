"""A target store with a plan, as readers meet it: committed or not, whole or damaged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.storage import LocalStorage
from support.commit_processes import entry_of
from workers.targets.encoding.arrays import UnitTargets
from workers.targets.reader import Cursor, TargetRow, TargetStream
from workers.targets.store import TargetStore
from workers.units import UnitPlan

CommitUnit = Callable[[TargetStore, int, UnitTargets], bool]

DOMAINS = [("a",), ("b",), ("a", "b"), ("a",), ("c",), ("b",), ("a",), ("c",), ("a", "b"), ("b",)]
ROWS = [5, 3, 4, 1, 6, 2, 3, 2, 2, 4]


@dataclass
class StoreFixture:
    """A plan with the contents of its units, committed or not."""

    store: TargetStore
    plan: UnitPlan
    contents: list[UnitTargets]
    commit_unit: CommitUnit

    def commit(self, unit: int) -> None:
        assert self.commit_unit(self.store, unit, self.contents[unit])

    def commit_all(self) -> StoreFixture:
        for unit in range(len(self.contents)):
            self.commit(unit)
        return self

    def stream(self, mix: dict[str, float], seed: int = 0, cursor: Cursor | None = None, **more: Any) -> TargetStream:
        return TargetStream(TargetStore(self.store.storage, "train"), self.plan, mix, seed, cursor, **more)

    def part(self, unit: int) -> Path:
        """The file of a unit's newest revision."""
        entry = TargetStore(self.store.storage, "train").log.entry(unit)
        assert entry is not None and isinstance(self.store.storage, LocalStorage)
        return self.store.storage.root / entry.parts[0].key

    def repair(self, unit: int, revision: int = 1, targets: UnitTargets | None = None) -> None:
        """Commit a revision of a unit, with its contents or with others."""
        targets = targets or self.contents[unit]
        assert self.store.log.commit(entry_of(self.store, unit, targets, revision=revision))

    def names_of(self, domain: str) -> list[str]:
        """Prompt ids of a domain in plan order."""
        return [name for u in self.plan.of_domain(domain) for name in self.contents[u].prompt_uids]


def rows(stream: TargetStream, n: int) -> list[TargetRow]:
    """The next n rows (a batch of one target position is one row)."""
    return [stream.next_batch(1)[0] for _ in range(n)]


def content(row: TargetRow) -> tuple[object, ...]:
    arrays = (row.tokens, row.num_kept, row.ids, row.weights, row.entropy, row.token_logprob)
    return (row.prompt_uid, row.start, *(a.tobytes() for a in arrays))
