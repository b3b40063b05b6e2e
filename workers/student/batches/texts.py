"""Which parts of the store's texts a student learns from: prompts or not, and what becomes of long texts. Pure."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from workers.student.config import TextsConfig
from workers.targets.reader import TargetRow


def shape_rows(rows: list[TargetRow], rules: TextsConfig, prompt_lengths: dict[str, int] | None) -> list[TargetRow]:
    """The rows of a unit as a student sees them. `prompt_lengths` is needed where prompts are masked.

    A text that is rejected stays as a row without targets that is marked so: it is counted, and the sequence of rows
    does not depend on it.
    """
    if rules.mask_prompts:
        assert prompt_lengths is not None
        rows = [from_target(row, max(0, prompt_lengths[row.prompt_uid] - row.start)) for row in rows]
    if rules.max_tokens is None:
        return rows
    long = _rejected if rules.long == "reject" else lambda row: split(row, rules.max_tokens, rules.overlap)
    return [part for row in rows for part in ([row] if len(row.tokens) <= rules.max_tokens else long(row))]


def from_target(row: TargetRow, first: int, last: int | None = None) -> TargetRow:
    """The same text up to its target `last`, with its targets from `first` on (both counted among its targets)."""
    last = row.targets if last is None else last
    at = np.concatenate([[0], np.cumsum(row.num_kept, dtype=np.int64)])
    exact = row.logprobs is not None or row.hidden is not None
    kept = slice(0, 0) if exact else slice(at[min(first, last)], at[last])
    return replace(
        row,
        tokens=row.tokens[: row.start + last],
        start=row.start + min(first, last),
        num_kept=row.num_kept[first:last],
        ids=row.ids[kept],
        weights=row.weights[kept],
        tail=row.tail[first:last] if len(row.tail) else row.tail,
        logprobs=row.logprobs[first:last] if row.logprobs is not None else None,
        hidden=row.hidden[first:last] if row.hidden is not None else None,
        entropy=row.entropy[first:last],
        token_logprob=row.token_logprob[first:last],
    )


def split(row: TargetRow, most: int, overlap: int) -> list[TargetRow]:
    """A text in pieces of at most `most` tokens. Each target is in one of them; a later piece begins with `overlap`
    tokens of the one before (at least one, for a token is predicted from another), as context."""
    pieces, first = [], 0
    begin = 0 if row.start < most else row.start - max(overlap, 1)  # of a longer prompt only its end
    while first < row.targets:
        last = min(row.targets, begin + most - row.start)
        piece = from_target(row, first, last)
        pieces.append(replace(piece, tokens=piece.tokens[begin:], start=piece.start - begin))
        begin, first = row.start + last - max(overlap, 1), last
    return pieces


def _rejected(row: TargetRow) -> list[TargetRow]:
    empty = from_target(row, row.targets)
    return [replace(empty, tokens=empty.tokens[:1], start=1, rejected=True)]
