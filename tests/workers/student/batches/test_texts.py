"""Parts of texts: every target once with its own context, masked prompts, long texts in pieces or rejected."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from workers.student.batches.texts import shape_rows
from workers.student.config import TextsConfig
from workers.targets.encoding.arrays import UnitTargets
from workers.targets.encoding.schema import StoreHeader
from workers.targets.reader import TargetRow, rows_of

STORES: dict[str, dict[str, Any]] = {
    "systematic": {"scheme": "systematic"},
    "topk": {"scheme": "topk", "top_k": 4},
    "full": {"scheme": "full"},
    "hidden": {"scheme": "hidden", "precision": "bfloat16"},
}
Target = tuple[int, tuple[float, ...], tuple[float, ...], float, float, float]


@pytest.fixture(params=STORES)
def rows(
    request: pytest.FixtureRequest, make_header: Callable[..., StoreHeader], make_targets: Callable[..., UnitTargets]
) -> list[TargetRow]:
    header = make_header(vocabulary=31, **STORES[request.param])
    lengths, starts = [40, 7, 12, 2, 25], [1, 3, 11, 2, 20]
    return rows_of(make_targets(header, np.random.default_rng(0), list("abcde"), lengths, starts), header)


def targets_of(row: TargetRow) -> list[Target]:
    """Label, entries (or hidden state), tail, entropy and token_logprob log-probability of each target, in order."""
    at = np.concatenate([[0], np.cumsum(row.num_kept, dtype=np.int64)])
    whole = row.logprobs if row.hidden is None else row.hidden
    found = []
    for t in range(row.targets):
        kept = slice(at[t], at[t + 1]) if whole is None else slice(0, 0)
        weights = row.weights[kept] if whole is None else whole[t]
        tail = float(row.tail[t]) if len(row.tail) else 0.0
        label = int(row.tokens[row.start + t])
        found.append(
            (
                label,
                tuple(row.ids[kept].tolist()),
                tuple(weights.tolist()),
                tail,
                float(row.entropy[t]),
                float(row.token_logprob[t]),
            )
        )
    return found


@pytest.mark.parametrize(("most", "overlap"), [(2, 0), (5, 0), (5, 3), (12, 4), (39, 1), (40, 0), (100, 7)])
def test_every_target_is_in_one_piece_with_its_own_context(rows: list[TargetRow], most: int, overlap: int) -> None:
    rules = TextsConfig(max_tokens=most, overlap=overlap)
    for row in rows:
        pieces = shape_rows([row], rules, None)
        assert [t for piece in pieces for t in targets_of(piece)] == targets_of(row)
        done = 0
        for i, piece in enumerate(pieces):
            assert piece.start >= 1 and len(piece.tokens) <= most and piece.targets == len(piece.entropy)
            end = row.start + done + piece.targets
            assert np.array_equal(piece.tokens, row.tokens[end - len(piece.tokens) : end]), (
                "its context is that of the text"
            )
            if len(row.tokens) > most and (i or row.start >= most):
                assert piece.start == max(overlap, 1)
            done += piece.targets


def test_long_texts_are_reject_and_counted(rows: list[TargetRow]) -> None:
    shaped = shape_rows(rows, TextsConfig(max_tokens=12, long="reject"), None)
    assert [r.rejected for r in shaped] == [True, False, False, False, True]
    assert [r.targets for r in shaped] == [0, 4, 1, 0, 0] and len(shaped) == len(rows)


def test_prompts_are_masked(rows: list[TargetRow]) -> None:
    lengths = {"a": 30, "b": 3, "c": 12, "d": 2, "e": 10}
    shaped = shape_rows(rows, TextsConfig(mask_prompts=True), lengths)
    for before, after in zip(rows, shaped, strict=True):
        start = max(before.start, min(lengths[before.prompt_uid], len(before.tokens)))
        assert after.start == start and np.array_equal(after.tokens, before.tokens)
        assert targets_of(after) == targets_of(before)[start - before.start :]


def test_texts_as_they_are_stay_the_same_objects(rows: list[TargetRow]) -> None:
    assert shape_rows(rows, TextsConfig(), None) == rows
    assert shape_rows(rows, TextsConfig(max_tokens=100), None) == rows


def test_pieces_that_would_not_advance_are_refused() -> None:
    with pytest.raises(ValueError, match="would hold no new target; give at most 3"):
        TextsConfig(max_tokens=5, overlap=4)
