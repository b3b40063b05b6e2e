"""All rows of a run as numbers, in the order of their sources: about 80 bytes a row, whatever its words are.

Here it is decided what becomes of each: which repeat another, are held out, are too long.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

import numpy as np

from cluster.storage import Storage
from orchestrator.config.schema import RunConfig
from orchestrator.prompts.duplicates import REPEATS
from orchestrator.prompts.freezing.pieces import NUMBERS, Piece, StoredPiece
from orchestrator.prompts.freezing.shards import Shard
from orchestrator.prompts.kinds import RowKind
from orchestrator.prompts.lengths import length_limit
from orchestrator.prompts.policy import PolicyResolver
from orchestrator.prompts.sources import RejectedRow, repeated_id
from orchestrator.prompts.splits import SAYS, Candidates, beyond, beyond_reason, split_rows
from workers.splits import HELDOUT

Item = TypeVar("Item", bound=Hashable)

_KEPT, _REPEATS_ID = -1, -2


@dataclass
class Rows:
    """Rows that could be read; arrays are [rows]."""

    kinds: list[RowKind]
    numbers: dict[str, np.ndarray]
    """By the names of NUMBERS, and `shard` and `at`: where the row lies on storage."""
    reasons: list[str]
    """Why rows are rejected."""
    unread: list[RejectedRow]
    """Rows that could not be read."""
    why: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int32))
    """Which of the reasons rejects a row; _KEPT, or _REPEATS_ID, whose reason names the id."""
    heldout: np.ndarray = field(default_factory=lambda: np.zeros(0, bool))
    """Whether a row is held out."""

    @staticmethod
    def of(pieces: Sequence[Piece], shards: Sequence[Shard]) -> Rows:
        """The rows of all pieces, by shard."""
        kinds: dict[RowKind, int] = {}
        reasons: dict[str, int] = {}
        found: dict[str, list[np.ndarray]] = {name: [] for name in (*NUMBERS, "shard", "at")}
        unread: list[RejectedRow] = []
        for piece, before in zip(pieces, _rows_before(pieces, shards), strict=True):
            order = np.argsort(piece.numbers["place"])
            mine = {name: values[order] for name, values in piece.numbers.items()}
            mine["kind"] = _renumbered(mine["kind"], piece.kinds, kinds)
            mine["failed"] = _renumbered(mine["failed"], piece.reasons, reasons)
            mine["row"] = mine["row"] + before
            mine["shard"], mine["at"] = np.full(piece.rows, piece.shard, np.int32), order.astype(np.int32)
            for name, values in mine.items():
                found[name].append(values)
            unread += (replace(r, row=r.row + before) for r in piece.rejected)
        numbers = {name: np.concatenate(values) for name, values in found.items()}
        return Rows(list(kinds), numbers, list(reasons), unread, why=numbers.pop("failed"))

    def decide(self, config: RunConfig, longest: Mapping[str, int]) -> None:
        """Reject what cannot be used, and split the rest. `longest` are the tokens that each teacher holds. Raises
        ValueError where the caps of held-out rows have no room for one answer."""
        n = self.numbers
        first = _first_alike(n["id0"], n["id1"], np.arange(len(self.why)))
        self.why[first != np.arange(len(self.why))] = _REPEATS_ID
        self._drop_repeats(config)
        kept = self.kept()
        self._reject(kept[beyond(config, self._candidates(kept))], beyond_reason(config))
        kept = self.kept()
        self.heldout = np.zeros(len(self.why), bool)
        self.heldout[kept] = split_rows(config, self._candidates(kept))[0]
        self._reject_long(config, longest)

    def kept(self, heldout: bool | None = None) -> np.ndarray:
        """Indices of the rows that are kept, or of those of a split."""
        mask = self.why == _KEPT
        return np.flatnonzero(mask if heldout is None else mask & (self.heldout == heldout))

    def present(self, rows: np.ndarray) -> list[tuple[int, RowKind, bool]]:
        """Kinds of rows, in the order in which they come: their number, and whether they are held out."""
        codes, firsts = np.unique(self.numbers["kind"][rows] * 2 + self.heldout[rows], return_index=True)
        ordered = codes[np.argsort(firsts)].tolist()
        return [(code // 2, self.kinds[code // 2], bool(code % 2)) for code in ordered]

    def rejected(self, storage: Storage) -> Iterator[RejectedRow]:
        """The rejected rows, those that could not be read too, shard by shard; their ids are read from the pieces."""
        yield from self.unread
        lost = np.flatnonzero(self.why != _KEPT)
        shards = self.numbers["shard"][lost]
        for shard in np.unique(shards).tolist():
            rows = lost[shards == shard]
            table = StoredPiece(storage, shard).take(self.numbers["at"][rows], ["id", "file"])
            ids, files = table["id"].to_pylist(), table["file"].to_pylist()
            for row, identity, file in zip(rows.tolist(), ids, files, strict=True):
                why, kind = int(self.why[row]), self.kinds[self.numbers["kind"][row]]
                reason = repeated_id(identity) if why == _REPEATS_ID else self.reasons[why]
                yield RejectedRow(kind.source, int(self.numbers["row"][row]), identity, reason, file)

    def _reject(self, rows: np.ndarray, reason: str) -> None:
        if len(rows):
            if reason not in self.reasons:
                self.reasons.append(reason)
            self.why[rows] = self.reasons.index(reason)

    def _drop_repeats(self, config: RunConfig) -> None:
        rows = self.kept()
        said = self.numbers["says"][rows] == SAYS.index(HELDOUT)
        # One that its row holds out comes before those that train.
        asks0, asks1 = self.numbers["asks0"][rows], self.numbers["asks1"][rows]
        first = _first_alike(asks0, asks1, np.arange(len(rows)) + np.where(said, 0, len(rows)))
        drops = np.array([config.prompts[kind.source].duplicates == "drop" for kind in self.kinds], bool)
        again = (first != np.arange(len(rows))) & drops[self.numbers["kind"][rows]]
        for heldout in (False, True):
            self._reject(rows[again & (said[first] == heldout)], REPEATS[heldout])

    def _reject_long(self, config: RunConfig, longest: Mapping[str, int]) -> None:
        rows, policies = self.kept(), PolicyResolver(config)
        for _, kind, heldout in self.present(rows):
            most, reason = length_limit(config, kind.source, longest[kind.how(policies).teacher])
            mine = self.of_kind(rows, kind, heldout)
            self._reject(mine[self.text_tokens(config, policies, mine, kind, heldout) > most], reason)

    def of_kind(self, rows: np.ndarray, kind: RowKind, heldout: bool) -> np.ndarray:
        """Those of some rows that are of a kind and a split."""
        same = self.numbers["kind"][rows] == self.kinds.index(kind)
        return rows[same & (self.heldout[rows] == heldout)]

    def text_tokens(
        self, config: RunConfig, policies: PolicyResolver, rows: np.ndarray, kind: RowKind, heldout: bool
    ) -> np.ndarray:
        """Tokens of the longest text that may come of each of some rows of a kind."""
        given = kind.is_given(config, heldout=heldout)
        answer = self.numbers["answer_tokens"][rows] if given else kind.how(policies).sampling.max_new_tokens
        return self.numbers["prompt_tokens"][rows] + answer

    def _candidates(self, rows: np.ndarray) -> Candidates:
        n = self.numbers
        shares = n["id0"][rows].astype(np.float64) / 2.0**64
        return Candidates(self.kinds, n["kind"][rows], n["says"][rows], shares, n["answer_bytes"][rows])


def _rows_before(pieces: Sequence[Piece], shards: Sequence[Shard]) -> list[int]:
    """How many rows of its file come before each piece's."""
    before: list[int] = []
    for i, (piece, shard) in enumerate(zip(pieces, shards, strict=True)):
        assert piece.shard == shard.number
        last = shards[i - 1] if i else None
        follows = last is not None and shard.file is not None and (last.source, last.file) == (shard.source, shard.file)
        before.append(before[-1] + pieces[i - 1].rows + len(pieces[i - 1].rejected) if follows else 0)
    return before


def _renumbered(numbers: np.ndarray, names: Sequence[Item], known: dict[Item, int]) -> np.ndarray:
    """Numbers of a piece's names as those of all pieces'; -1 stays."""
    of_all = np.array([known.setdefault(name, len(known)) for name in names] + [-1], numbers.dtype)
    return of_all[numbers]


def _first_alike(a: np.ndarray, b: np.ndarray, rank: np.ndarray) -> np.ndarray:
    """Of each row the one with the lowest rank that has the same `a` and `b`."""
    order = np.lexsort((rank, b, a))
    begins = np.ones(len(order), bool)
    begins[1:] = (np.diff(a[order]) != 0) | (np.diff(b[order]) != 0)
    first = np.empty(len(order), np.int64)
    first[order] = order[begins][np.cumsum(begins) - 1] if len(order) else order
    return first
