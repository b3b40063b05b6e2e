"""The vocabulary order of a store, in two files: without it no shard could be read, so it is not left to one object."""

from __future__ import annotations

import numpy as np

from cluster.storage import Storage
from workers.layout import vocab_order_keys
from workers.targets.commits.damage import DamagedStore
from workers.targets.encoding.vocab_order import VocabOrder


class VocabOrderFiles:
    """The two files; either serves, and each fixes the other."""

    def __init__(self, storage: Storage, root: str, vocabulary: int) -> None:
        self._storage, self._vocabulary = storage, vocabulary
        self.keys = vocab_order_keys(root)

    def exist(self) -> bool:
        return any(self._storage.exists(key) for key in self.keys)

    def create(self, expected_V: np.ndarray) -> None:
        """Make the table from how often each id is expected; the first writer's is the store's.

        Raises ValueError for anything but one number for each id of the vocabulary.
        """
        if expected_V.shape != (self._vocabulary,):
            raise ValueError(f"targets: {expected_V.shape} frequencies for a vocabulary of {self._vocabulary:,}")
        first, copy = self.keys
        self._storage.create(first, VocabOrder.by_frequency(expected_V).to_bytes())
        self._storage.create(copy, self._storage.read(first))

    def read(self) -> VocabOrder:
        """The table. Raises DamagedStore if neither file holds one."""
        problems = []
        for key in self.keys:
            table = self._read(key)
            if isinstance(table, VocabOrder):
                return table
            problems.append(table)
        raise DamagedStore(
            f"{' and '.join(problems)}: without the vocabulary order no shard of the store can be read. Put one of the "
            "files back from a backup, or start again under another run name"
        )

    def problems(self) -> list[str]:
        """What is wrong with the files, in words."""
        return [found for key in self.keys if isinstance(found := self._read(key), str)]

    def fix(self) -> list[str]:
        """Write a file that is missing or damaged anew from the other one; returns what was wrong."""
        found = {key: self._read(key) for key in self.keys}
        bad = [key for key, table in found.items() if isinstance(table, str)]
        good = [key for key in self.keys if key not in bad]
        if bad and good:
            self._storage.write(bad[0], self._storage.read(good[0]))
        return [str(found[key]) for key in bad]

    def _read(self, key: str) -> VocabOrder | str:
        """A file's table, or what is wrong with it."""
        try:
            data = self._storage.read(key)
        except FileNotFoundError:
            return f"{key} is missing"
        try:
            table = VocabOrder.from_bytes(data)
        except (ValueError, OSError) as error:  # Arrow raises either for bytes that it cannot decompress
            return f"{key} is damaged ({error})"
        if len(table.id_of_order) != self._vocabulary:
            return f"{key} orders {len(table.id_of_order):,} ids of a vocabulary of {self._vocabulary:,}"
        return table
