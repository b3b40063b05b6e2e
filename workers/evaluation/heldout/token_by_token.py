"""What the teacher and a model hold likely at each position of a text, for a person to look at.

Legend: n target positions, V the tokenizer's ids.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from workers.evaluation.config import CHUNK_NUMBERS
from workers.evaluation.heldout.exact import Exact
from workers.evaluation.heldout.token_scores import Logits
from workers.evaluation.shown_texts import Guess, ShownText
from workers.targets.reader import TargetRow

RUNNERS_UP = 5
"""Ids that are kept of each distribution, the most probable ones."""

MOST_POSITIONS = 400
"""Of a text that are shown, at most: the first ones."""

_DIGITS = 5
"""Of probabilities and KLs, behind the point: they are looked at, and files are small"""

_PROMPT_TOKENS = 40
"""Of its prompt that are shown before it, at most: the last ones."""


@torch.no_grad()
def show_texts(
    rows: Sequence[tuple[TargetRow, bool]],
    logits: Logits,
    exact: Exact,
    vocabulary: int,
    device: str,
    text_of: Callable[[int, int], str],
) -> list[ShownText]:
    """Rows, each with whether it is one of the worst, in their order. `text_of` makes text of a token that stands
    behind another one, which it is given first."""
    chunk, found = max(1, CHUNK_NUMBERS[device] // vocabulary), dict[int, ShownText]()
    chosen_as = {id(row): is_worst for row, is_worst in rows}
    for row, of_row in logits([row for row, _ in rows]):
        T = min(row.targets, MOST_POSITIONS)
        columns: dict[str, list[Any]] = {name: [] for name in _BY_POSITION}
        for place in (slice(i, min(T, i + chunk)) for i in range(0, T, chunk)):
            q_nV = of_row(place)[:, :vocabulary].float().log_softmax(-1)
            there_n1 = row.tokens[row.start - 1 + place.start : row.start + place.stop].tolist()
            part = _positions(q_nV, exact(row, place).to(q_nV.device), there_n1, text_of)
            for name, values in part.items():
                columns[name].extend(values)
        before = row.tokens[max(row.start - _PROMPT_TOKENS - 1, 0) : row.start].tolist()
        found[id(row)] = ShownText(
            prompt=row.prompt_uid,
            worst=chosen_as[id(row)],
            before=[text_of(last, token) for last, token in pairwise(before)],
            more=row.targets - T,
            **columns,
        )
    return [found[id(row)] for row, _ in rows]


_BY_POSITION = ("tokens", "kl", "probability", "teacher_probability", "teacher", "model")


def _positions(
    q_nV: Tensor, t_nV: Tensor, tokens: list[int], text_of: Callable[[int, int], str]
) -> dict[str, list[Any]]:
    """What is shown of some positions, by the log-probabilities of model and teacher; `tokens` are the one before them
    and those that stand there."""
    labels_n1, last = torch.tensor(tokens[1:], device=q_nV.device)[:, None], tokens[:-1]
    numbers = {
        "kl": (t_nV.exp() * (t_nV - q_nV)).sum(-1),
        "probability": q_nV.gather(1, labels_n1)[:, 0].exp(),
        "teacher_probability": t_nV.gather(1, labels_n1)[:, 0].exp(),
    }
    return {
        "tokens": [text_of(before, token) for before, token in pairwise(tokens)],
        **{name: [round(x, _DIGITS) for x in values_n.tolist()] for name, values_n in numbers.items()},
        "teacher": _guesses(t_nV, last, text_of),
        "model": _guesses(q_nV, last, text_of),
    }


def _guesses(logp_nV: Tensor, last: list[int], text_of: Callable[[int, int], str]) -> list[list[Guess]]:
    top = logp_nV.topk(min(RUNNERS_UP, logp_nV.shape[-1]))
    found = zip(last, top.indices.tolist(), top.values.exp().tolist(), strict=True)
    return [
        [(text_of(before, i), round(p, _DIGITS)) for i, p in zip(ids, values, strict=True)]
        for before, ids, values in found
    ]
