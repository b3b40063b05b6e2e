"""Text that a student writes itself: sampled as it is, and compared as whole models would be."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.comparing.tolerances import of_logits

from workers.evaluation.own_text import OwnTexts, compare_own, write_own
from workers.targets.heads import head_of_folder
from workers.targets.reader import TargetRow
from workers.two_part_model import TwoPartModel

V, STOP = 60, 1


def rows() -> list[TargetRow]:
    nothing: Any = np.zeros(0)
    rng = np.random.default_rng(0)
    found = []
    for i in range(6):
        tokens = rng.integers(3, V, 9 + i)
        found.append(TargetRow(f"p{i}", tokens, 2 + i, *[nothing] * 4, None, nothing, nothing))
    return found


@pytest.fixture
def student(tiny_model: Callable[..., Any], tmp_path: Path) -> tuple[TwoPartModel, Path]:
    """A model with more ids than its tokenizer, and its folder."""
    model = tiny_model("llama", seed=3, vocab_size=V + 8, initializer_range=0.3).eval()
    model.save_pretrained(tmp_path / "student")
    return TwoPartModel(model, "cpu"), tmp_path / "student"


def written(student: TwoPartModel, batch_tokens: int = 10_000, seed: int = 0) -> OwnTexts:
    return write_own(student, rows(), 12, V, batch_tokens, [STOP], seed)


def test_texts_go_on_from_their_prompts_to_their_end(student: tuple[TwoPartModel, Path]) -> None:
    own = written(student[0])
    assert own.prompts == [row.prompt_uid for row in rows()]
    for tokens, start, row in zip(own.tokens, own.starts, rows(), strict=True):
        answer = tokens[start:]
        assert (tokens[:start] == row.tokens[: row.start]).all() and 1 <= len(answer) <= 12
        assert (answer < V).all() and STOP not in answer[:-1] and (len(answer) == 12 or answer[-1] == STOP)
    assert len(own.hidden_nH) == sum(len(t) - s for t, s in zip(own.tokens, own.starts, strict=True))
    again = OwnTexts.from_bytes(own.to_bytes())
    assert again.prompts == own.prompts and again.starts == own.starts
    assert all((a == b).all() for a, b in zip(again.tokens, own.tokens, strict=True))
    assert (again.hidden_nH == own.hidden_nH).all()


def test_texts_are_those_of_their_seed(student: tuple[TwoPartModel, Path]) -> None:
    one, same, other = (written(student[0], seed=s).tokens for s in (0, 0, 1))
    assert all(np.array_equal(a, b) for a, b in zip(one, same, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("batch_tokens", [10_000, 1])
def test_scores_are_those_of_both_whole_models(
    student: tuple[TwoPartModel, Path], tiny_model: Callable[..., Any], batch_tokens: int
) -> None:
    model, folder = student
    teacher = tiny_model("qwen3", seed=5, vocab_size=V, initializer_range=0.3).eval()
    own = written(model, batch_tokens)
    head = head_of_folder(folder, "float32", V)
    found = dict(compare_own(TwoPartModel(teacher, "cpu"), own, head, V, batch_tokens))
    assert found.keys() == set(own.prompts)
    for uid, tokens, start in zip(own.prompts, own.tokens, own.starts, strict=True):
        ids = torch.from_numpy(tokens)[None]
        with torch.no_grad():
            z_q, z_t = (m(ids).logits[0, start - 1 : -1, :V].double() for m in (model.model, teacher))
        q, t = z_q.log_softmax(-1), z_t.log_softmax(-1)
        # Both are float32 logits of this size, of which KL is a mean of differences.
        tolerance = 4 * of_logits(float(torch.stack([z_q, z_t]).abs().max()))
        by_hand = {"kl": (t.exp() * (t - q)).sum(-1), "reverse_kl": (q.exp() * (q - t)).sum(-1)}
        for name, values in by_hand.items():
            np.testing.assert_allclose(getattr(found[uid], name), values.numpy(), rtol=0, atol=tolerance, err_msg=name)
        assert found[uid].position.tolist() == list(range(len(tokens) - start))


def test_a_teacher_beside_its_own_text_is_perfect(student: tuple[TwoPartModel, Path]) -> None:
    model, folder = student
    found = dict(compare_own(model, written(model), head_of_folder(folder, "float32", V), V, 64))
    scores = list(found.values())
    assert max(np.abs(s.kl).max() for s in scores) < 1e-4 and all((s.agree == 1).all() for s in scores)
