"""Scoring models: the teacher against itself, and ranks of answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.comparing.tolerances import in_float64, of_capture

from workers.evaluation.heldout import token_scores
from workers.evaluation.heldout.exact import stored
from workers.evaluation.heldout.sums import TEMPERATURES, TOP, TokenScores
from workers.evaluation.heldout.token_scores import answer_rank, compare, logits_of, score
from workers.evaluation.heldout.truth import Truth
from workers.targets.encoding.schema import StoreHeader
from workers.targets.reader import TargetRow, rows_of
from workers.teacher.config import TeacherConfig
from workers.teacher.engine import CaptureSpec, TextRequest
from workers.teacher.engines.transformers_engine import TransformersEngine
from workers.two_part_model import TwoPartModel

V = 300
TEXTS = np.random.default_rng(0).integers(3, V, (3, 12))


@pytest.fixture(autouse=True)
def _scoring() -> Iterator[None]:
    """As within a scorer."""
    with torch.no_grad():
        yield


@pytest.fixture(scope="module")
def heldout(tiny_moe: Path) -> tuple[Any, list[TargetRow]]:
    """The teacher, in float64, and its exact distributions on texts of its own of unequal lengths."""
    engine = TransformersEngine(TeacherConfig(model=str(tiny_moe)))
    in_float64(engine.model)
    rng = np.random.default_rng(1)
    asked = [
        TextRequest(f"p{i}", 0, rng.integers(3, V, 2 + i % 4).tolist(), None, max_new_tokens=3 + i) for i in range(8)
    ]
    targets = engine.run(asked, CaptureSpec("full", 1, "answer", "float32", V, 0))
    return engine.model, rows_of(targets, StoreHeader("full", 1, "answer", "float32", V, "", "", 0))


def off_by(rows: list[TargetRow]) -> float:
    """What rounding leaves between two scores of a model in float64: they are differences of two log-probabilities, or
    means of such, whose logits are as large as these."""
    return 2 * of_capture(max(np.abs(r.logprobs).max() for r in rows if r.logprobs is not None))


# Scores -----------------------------------------------------------------------------------------------------


def scores_of(model: Any, rows: list[TargetRow], batch_tokens: int, truth: Truth | None = None) -> TokenScores:
    """Scores at all positions of a domain's texts, the longest text first."""
    by_row = dict.fromkeys(map(id, rows))
    logits = logits_of(TwoPartModel(model, "cpu"), batch_tokens)
    for row, by_domain in score(logits, rows, V, stored, {"a": truth}, "cpu"):
        assert len(by_domain["a"].kl) == row.targets
        by_row[id(row)] = by_domain["a"]
    ordered = sorted(rows, key=lambda r: (-len(r.tokens), r.prompt_uid))
    return TokenScores.join([found for r in ordered if (found := by_row[id(r)]) is not None])


def test_the_teacher_scored_against_itself_is_perfect(heldout: tuple[Any, list[TargetRow]]) -> None:
    teacher, rows = heldout
    found = scores_of(teacher, rows, 64)
    assert len(found.kl) == sum(r.targets for r in rows)
    assert np.abs(found.kl).max() < off_by(rows)
    assert (found.agree == 1).all()
    np.testing.assert_allclose(found.confidence, found.teacher_at_top, rtol=0, atol=off_by(rows))
    ordered = sorted(rows, key=lambda r: (-len(r.tokens), r.prompt_uid))
    token_logprob = np.concatenate([r.token_logprob for r in ordered])
    np.testing.assert_allclose(-found.nll, token_logprob, rtol=0, atol=off_by(rows))


def _top(p_TV: np.ndarray) -> np.ndarray:
    """[T, V] whether an id is among the most probable of its position."""
    return p_TV >= np.sort(p_TV, -1)[:, -TOP, None]


def test_acceptance_is_one_less_total_variation() -> None:
    """Sum of min(t, q), in float64."""
    t_nV, q_nV = torch.randn(2, 30, 200, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).mul(3)
    found = compare(q_nV.log_softmax(-1), t_nV.log_softmax(-1), np.zeros(30, np.int64), 0)
    shared_n = torch.minimum(q_nV.softmax(-1), t_nV.softmax(-1)).sum(-1)
    np.testing.assert_allclose(1 - found.tv, shared_n, rtol=0, atol=1e-12)
    alike = compare(t_nV.log_softmax(-1), t_nV.log_softmax(-1), np.zeros(30, np.int64), 0)
    assert np.abs(alike.kl).max() < 1e-12 and alike.tv.max() < 1e-12 and (alike.overlap == 1).all()


def test_a_student_is_scored_as_by_hand(heldout: tuple[Any, list[TargetRow]], tiny_model: Callable[..., Any]) -> None:
    _, rows = heldout
    student = in_float64(tiny_model("llama", seed=5, vocab_size=V + 20))  # padded beyond the tokenizer
    found = scores_of(student, rows, 64)
    ordered = sorted(rows, key=lambda r: (-len(r.tokens), r.prompt_uid))
    kl, agree, nll, confidence, at_top = [], [], [], [], []
    more: dict[str, list[np.ndarray]] = {
        n: [] for n in ("reverse_kl", "tv", "overlap", "overlap_mass", "model_entropy")
    }
    more |= {"hit": [], "brier": [], "tempered_kl": []}
    for row in ordered:
        ids = torch.from_numpy(row.tokens.astype(np.int64))
        q_TV = student(ids[None]).logits[0, row.start - 1 : -1, :V].double().softmax(-1).numpy()
        assert row.logprobs is not None
        t_TV = np.exp(row.logprobs.astype(np.float64))
        positions = np.arange(row.targets)
        kl.append((t_TV * (np.log(t_TV) - np.log(q_TV))).sum(-1))
        agree.append(q_TV.argmax(-1) == t_TV.argmax(-1))
        nll.append(-np.log(q_TV[positions, row.tokens[row.start :]]))
        confidence.append(q_TV.max(-1))
        at_top.append(t_TV[positions, q_TV.argmax(-1)])
        shared_TV = _top(t_TV) & _top(q_TV)
        hit = q_TV.argmax(-1) == row.tokens[row.start :]
        more["reverse_kl"].append((q_TV * (np.log(q_TV) - np.log(t_TV))).sum(-1))
        more["tv"].append(1 - np.minimum(t_TV, q_TV).sum(-1))
        more["overlap"].append(shared_TV.sum(-1) / TOP)
        more["overlap_mass"].append((t_TV * shared_TV).sum(-1))
        more["model_entropy"].append(-(q_TV * np.log(q_TV)).sum(-1))
        more["hit"].append(hit)
        more["brier"].append((q_TV.max(-1) - hit) ** 2)
        tempered = [q_TV ** (1 / T) / (q_TV ** (1 / T)).sum(-1, keepdims=True) for T in TEMPERATURES]
        more["tempered_kl"].append(np.stack([(t_TV * np.log(t_TV / r_TV)).sum(-1) for r_TV in tempered], 1))
    for name, values in {
        "kl": kl,
        "agree": agree,
        "nll": nll,
        "confidence": confidence,
        "teacher_at_top": at_top,
        **more,
    }.items():
        np.testing.assert_allclose(
            getattr(found, name), np.concatenate(values), rtol=0, atol=off_by(rows), err_msg=name
        )
    assert found.kl.mean() > 0.1


@pytest.mark.parametrize("batch_tokens", [1, 30, 10_000])
def test_scores_do_not_depend_on_the_size_of_batches(
    batch_tokens: int, heldout: tuple[Any, list[TargetRow]], tiny_model: Callable[..., Any]
) -> None:
    _, rows = heldout
    student = in_float64(tiny_model("llama", seed=5))
    usual, other = (scores_of(student, rows, n) for n in (50, batch_tokens))
    np.testing.assert_allclose(other.kl, usual.kl, rtol=0, atol=off_by(rows))


def test_few_logits_at_once_give_the_same_scores(
    heldout: tuple[Any, list[TargetRow]], tiny_model: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, rows = heldout
    student = in_float64(tiny_model("llama", seed=5))
    usual = scores_of(student, rows, 50)
    monkeypatch.setitem(token_scores.CHUNK_NUMBERS, "cpu", 2 * V)
    few = scores_of(student, rows, 50)
    assert np.array_equal(few.position, usual.position)
    np.testing.assert_allclose(few.kl, usual.kl, rtol=0, atol=off_by(rows))
    np.testing.assert_allclose(few.entropy, usual.entropy, rtol=0, atol=off_by(rows))


def test_the_truth_is_asked_for_each_text(heldout: tuple[Any, list[TargetRow]]) -> None:
    """A truth that is the teacher itself, known at every second position only."""
    teacher, rows = heldout

    def truth(domain: str, ids: list[int], start: int) -> np.ndarray:
        row = next(r for r in rows if r.tokens.tolist() == ids)
        assert domain == "a" and start == row.start and row.logprobs is not None
        p_TV = np.exp(row.logprobs.astype(np.float64))
        p_TV[1::2] = np.nan
        return p_TV

    found = scores_of(teacher, rows, 64, truth)
    known = ~np.isnan(found.truth_kl)
    assert known.sum() == sum((r.targets + 1) // 2 for r in rows)
    assert np.array_equal(known, ~np.isnan(found.truth_teacher_kl))
    assert np.abs(found.truth_kl[known]).max() < off_by(rows)


def test_the_rank_of_an_answer(tiny_model: Callable[..., Any]) -> None:
    model = in_float64(tiny_model("llama", vocab_size=V + 20))
    parts, prompt = TwoPartModel(model, "cpu"), TEXTS[0]
    logits_V = model(torch.from_numpy(prompt)[None]).logits[0, -1, :V]
    p_V = logits_V.softmax(-1)
    order = p_V.argsort(descending=True)
    for rank in (1, 2, 17, V):
        token = int(order[rank - 1])
        found = answer_rank(parts, np.append(prompt, [token, 5]).astype(np.uint32), len(prompt), V)
        assert found["rank"] == rank
        assert found["probability"] == pytest.approx(float(p_V[token]), rel=of_capture(logits_V.abs().max()))
