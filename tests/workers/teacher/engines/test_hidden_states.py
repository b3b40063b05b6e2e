"""Hidden states as targets: the same texts and the same distributions as a `full` store, at a part of its bytes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.comparing.tolerances import of_capture

from workers.targets.encoding.arrays import UnitTargets
from workers.targets.encoding.codec import decode, encode
from workers.targets.encoding.schema import StoreHeader
from workers.targets.encoding.vocab_order import VocabOrder
from workers.targets.heads import head_of_folder
from workers.targets.inspection import find_problems
from workers.targets.reader import rows_of
from workers.targets.store import to_parquet
from workers.teacher.config import TeacherConfig
from workers.teacher.engine import CaptureSpec, TextRequest
from workers.teacher.engines.row_capture import RowCapture
from workers.teacher.engines.transformers_engine import TransformersEngine

V = 300
SPEC = CaptureSpec("full", 1, "answer", "float32", V, 0)
HIDDEN = replace(SPEC, scheme="hidden")
HEADER = StoreHeader("hidden", 1, "answer", "float32", V, "", "", 0)


@pytest.fixture(scope="module")
def engine(tiny_moe: Path) -> TransformersEngine:
    return TransformersEngine(TeacherConfig(model=str(tiny_moe)))


@pytest.fixture(scope="module")
def both(engine: TransformersEngine) -> tuple[UnitTargets, UnitTargets]:
    """Texts of unequal lengths, made and given, captured in both ways."""
    rng = np.random.default_rng(1)
    asked = [
        TextRequest(f"p{i}", 0, rng.integers(3, V, 2 + i % 4).tolist(), None, max_new_tokens=3 + i) for i in range(5)
    ]
    asked += [TextRequest("given", 0, [5, 6, 7], [8, 9, 10, 11])]
    return engine.run(asked, SPEC), engine.run(asked, HIDDEN)


def test_texts_and_scalars_are_those_of_a_full_store(both: tuple[UnitTargets, UnitTargets]) -> None:
    full, hidden = both
    for name in ("tokens", "lengths", "starts", "entropy", "token_logprob"):
        assert np.array_equal(getattr(full, name), getattr(hidden, name)), name
    assert not len(hidden.logprobs) and len(hidden.hidden) % len(hidden.entropy) == 0


def test_head_and_hidden_states_give_the_full_distributions(
    both: tuple[UnitTargets, UnitTargets], tiny_moe: Path
) -> None:
    full, hidden = both
    head = head_of_folder(tiny_moe, "float32", V).on("cpu")
    exact = rows_of(full, replace(HEADER, scheme="full"))
    for row, wanted in zip(rows_of(hidden, HEADER), exact, strict=True):
        assert row.hidden is not None and wanted.logprobs is not None and row.logprobs is None
        found_TV = head.log_probabilities(row.hidden, "float32").numpy()
        assert np.abs(found_TV - wanted.logprobs).max() < 2 * of_capture(np.abs(wanted.logprobs).max())


def test_a_part_of_hidden_states_comes_back_and_takes_fewer_bytes(both: tuple[UnitTargets, UnitTargets]) -> None:
    full, hidden = both
    order = VocabOrder.identity(V)
    found = decode(encode(hidden, HEADER, order), HEADER, order)
    assert found.content_hash() == replace(hidden, texts=found.texts).content_hash()
    assert find_problems(found, HEADER, set(found.prompt_uids)) == []
    sizes = [
        len(to_parquet(encode(unit, header, order), header, {}))
        for unit, header in ((hidden, HEADER), (full, replace(HEADER, scheme="full")))
    ]
    assert sizes[0] < sizes[1]


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_hidden_state_that_is_no_number_is_found(both: tuple[UnitTargets, UnitTargets], precision: Any) -> None:
    _, hidden = both
    header = replace(HEADER, precision=precision)
    states = torch.from_numpy(hidden.hidden).clone()
    states[-1] = float("nan")
    stored = states.numpy() if precision == "float32" else states.bfloat16().view(torch.uint16).numpy()
    [problem] = find_problems(replace(hidden, hidden=stored), header, set(hidden.prompt_uids))
    assert problem == "the hidden state of 1 positions is NaN or Inf, first in text 'given'"
    [problem] = find_problems(replace(hidden, hidden=stored[:-1]), header, set(hidden.prompt_uids))
    assert problem.startswith("hidden: ")


def test_rows_can_be_selected_and_joined(both: tuple[UnitTargets, UnitTargets]) -> None:
    _, hidden = both
    parts = [hidden.select(np.array([i])) for i in range(hidden.rows)]
    assert UnitTargets.join(parts).content_hash() == hidden.content_hash()


def test_a_head_that_is_more_than_a_matrix_is_refused(
    engine: TransformersEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine._parts, "head", lambda hidden_nH: torch.randn(len(hidden_nH), V))
    monkeypatch.delitem(engine.__dict__, "_head_is_plain", raising=False)
    with pytest.raises(ValueError, match=r"targets: hidden, but qwen3_moe .*evaluate.targets: full"):
        engine.run([TextRequest("a", 0, [1, 2], [3])], HIDDEN)


def test_an_engine_that_gives_logits_alone_refuses() -> None:
    capture: Callable[..., Any] = RowCapture([TextRequest("a", 0, [1, 2], [3])], HIDDEN, set(), [2]).next_tokens
    with pytest.raises(ValueError, match="does not show hidden states"):
        capture(np.array([0]), np.array([0]), torch.randn(1, V))
