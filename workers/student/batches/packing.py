"""Texts side by side: which of them one worker runs at once, and how they lie in a tensor.

`packed`: one row, text after text without padding, each attending to itself alone (packed_attention.py). `padded`: a
row for each text, filled up to the longest. What a text learns is the same.

Legend: B rows, S tokens of a row, T target positions of all texts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from workers.targets.reader import TargetRow

Layout = Literal["packed", "padded"]


@dataclass(frozen=True)
class Texts:
    """The input of one forward pass. The last token of a text predicts nothing, so it is none of it."""

    input_BS: Tensor
    mask_BS: Tensor | None
    """1 at tokens, 0 at padding; None where texts are packed."""
    lengths: tuple[int, ...] | None
    """Tokens of each packed text; None where they are padded."""
    positions_T: Tensor
    """Flat indices (b * S + s) of the tokens whose next token is a target."""
    place_BS: Tensor | None = None
    """Each token's place in its own text, where texts are packed."""

    def map(self, change: Callable[[Tensor], Tensor]) -> Texts:
        """The same with every tensor changed."""
        changed = {f.name: change(t) for f in fields(self) if isinstance(t := getattr(self, f.name), Tensor)}
        return replace(self, **changed)


def group_rows(rows: list[TargetRow], most_tokens: int, layout: Layout) -> list[list[TargetRow]]:
    """Rows to be run together: at most `most_tokens` tokens, padding included (or one row alone)."""
    rows = sorted(rows, key=longest_first)
    return _first_fit(rows, most_tokens) if layout == "packed" else _by_length(rows, most_tokens)


def longest_first(row: TargetRow) -> tuple[int, str, int]:
    """A key to sort texts by; of equal length, by what they are."""
    return (-len(row.tokens), row.prompt_uid, row.start)


def lay_out(rows: list[TargetRow], layout: Layout) -> Texts:
    """The texts of some rows as one input; targets follow each other in the rows' order."""
    return _pack(rows) if layout == "packed" else _pad(rows)


def _first_fit(rows: list[TargetRow], most_tokens: int) -> list[list[TargetRow]]:
    """Longest first, each into the first group that has room (Johnson 1974: at most 11/9 of the fewest groups)."""
    groups: list[list[TargetRow]] = []
    room: list[int] = []
    for row in rows:
        size = len(row.tokens) - 1
        place = next((i for i, free in enumerate(room) if size <= free), None)
        if place is None:
            place = len(groups)
            groups.append([])
            room.append(most_tokens)
        groups[place].append(row)
        room[place] -= size
    return groups


def _by_length(rows: list[TargetRow], most_tokens: int) -> list[list[TargetRow]]:
    groups: list[list[TargetRow]] = []
    for row in rows:
        if not groups or (len(groups[-1][0].tokens) - 1) * (len(groups[-1]) + 1) > most_tokens:
            groups.append([])
        groups[-1].append(row)
    return groups


def _pack(rows: list[TargetRow]) -> Texts:
    lengths = [len(r.tokens) - 1 for r in rows]
    first = np.concatenate([[0], np.cumsum(lengths)])
    input_S = np.concatenate([r.tokens[:-1] for r in rows]).astype(np.int64)
    positions_T = np.concatenate([first[i] + np.arange(r.start - 1, lengths[i]) for i, r in enumerate(rows)])
    place_S = np.concatenate([np.arange(n) for n in lengths])
    ids_1S, place_1S = torch.from_numpy(input_S)[None], torch.from_numpy(place_S)[None]
    return Texts(ids_1S, None, tuple(lengths), torch.from_numpy(positions_T), place_1S)


def _pad(rows: list[TargetRow]) -> Texts:
    S = max(len(r.tokens) for r in rows) - 1
    input_BS, mask_BS = np.zeros((len(rows), S), np.int64), np.zeros((len(rows), S), np.int64)
    for b, row in enumerate(rows):
        n = len(row.tokens) - 1
        input_BS[b, :n], mask_BS[b, :n] = row.tokens[:-1], 1
    positions_T = np.concatenate([b * S + np.arange(r.start - 1, len(r.tokens) - 1) for b, r in enumerate(rows)])
    return Texts(torch.from_numpy(input_BS), torch.from_numpy(mask_BS), None, torch.from_numpy(positions_T))
