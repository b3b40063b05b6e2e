"""Scores against hidden states and a head are those against every log-probability."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.comparing.tolerances import of_capture

from cluster.storage import LocalStorage
from workers.evaluation.heldout.exact import Exact, ExactTargets, stored
from workers.evaluation.heldout.sums import TokenScores
from workers.evaluation.heldout.token_scores import logits_of, score
from workers.targets.encoding.schema import StoreHeader
from workers.targets.heads import head_of_folder
from workers.targets.reader import TargetRow, rows_of
from workers.targets.store import TargetStore
from workers.teacher.config import TeacherConfig
from workers.teacher.engine import CaptureSpec, TextRequest
from workers.teacher.engines.transformers_engine import TransformersEngine
from workers.two_part_model import TwoPartModel

V = 300
HEADER = StoreHeader("hidden", 1, "answer", "float32", V, "", "", 0)


@pytest.fixture
def heldout(tiny_moe: Path, tmp_path: Path) -> tuple[TargetStore, list[TargetRow], list[TargetRow]]:
    """A store of hidden states, its rows, and the same texts with every log-probability."""
    engine = TransformersEngine(TeacherConfig(model=str(tiny_moe)))
    rng = np.random.default_rng(1)
    asked = [TextRequest(f"p{i}", 0, rng.integers(3, V, 3 + i).tolist(), None, max_new_tokens=4 + i) for i in range(5)]
    specs = [CaptureSpec.of(replace(HEADER, scheme=scheme), ()) for scheme in ("hidden", "full")]
    hidden, full = (engine.run(asked, spec) for spec in specs)
    store = TargetStore(LocalStorage(tmp_path), "heldout")
    store.create(HEADER)
    store.storage.write(store.head_key("t"), head_of_folder(tiny_moe, "float32", V).to_bytes())
    return store, rows_of(hidden, HEADER, "t"), rows_of(full, replace(HEADER, scheme="full"), "t")


def test_scores_are_those_of_a_full_store(
    heldout: tuple[TargetStore, list[TargetRow], list[TargetRow]], tiny_model: Callable[..., Any]
) -> None:
    store, hidden, full = heldout
    student = tiny_model("qwen3")
    logits = logits_of(TwoPartModel(student, "cpu"), 64)

    def scores(rows: list[TargetRow], exact: Exact) -> TokenScores:
        return TokenScores.join([found["a"] for _, found in score(logits, rows, V, exact, {"a": None}, "cpu")])

    one, other = scores(hidden, ExactTargets(store, "cpu")), scores(full, stored)
    largest = max(float(stored(row).abs().max()) for row in full)
    for field in fields(TokenScores):
        a, b = getattr(one, field.name), getattr(other, field.name)
        assert a.shape == b.shape
        if field.name != "agree":  # two ids may be equally probable but for the last bit
            assert np.allclose(a, b, atol=4 * of_capture(largest), equal_nan=True), field.name


def test_a_head_is_read_once_and_a_lost_one_names_the_remedy(
    heldout: tuple[TargetStore, list[TargetRow], list[TargetRow]],
) -> None:
    store, hidden, _ = heldout
    exact = ExactTargets(store, "cpu")
    first = exact(hidden[0])
    store.storage.delete(store.head_key("t"))
    assert torch.equal(exact(hidden[0]), first)
    with pytest.raises(ValueError, match=r"heads/t.safetensors is missing.*stillhouse capture"):
        ExactTargets(store, "cpu")(hidden[0])
