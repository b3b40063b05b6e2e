"""Texts token by token: which are chosen, and that what is shown is what both models hold likely."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from workers.evaluation.heldout.sums import SUMMED
from workers.evaluation.heldout.token_by_token import MOST_POSITIONS, show_texts
from workers.evaluation.heldout.token_scores import LogitsAt
from workers.evaluation.metrics.domain_scores import DomainScores
from workers.evaluation.shown_texts import ShownText, chosen, from_bytes, to_bytes
from workers.targets.reader import TargetRow

V = 7


def scores(kl_by_prompt: dict[str, float]) -> DomainScores:
    tokens_P = np.full(len(kl_by_prompt), 10.0)
    sums = {name: np.zeros(len(tokens_P)) for name in SUMMED} | {"kl": np.array([*kl_by_prompt.values()]) * 10}
    return DomainScores([*kl_by_prompt], {**sums, "tokens": tokens_P}, np.zeros((0, 4)), {})


def test_the_worst_and_as_many_drawn_ones() -> None:
    found = scores({f"p{i}": float(i) for i in range(20)})
    first = chosen(found, 3, seed=0)
    assert [uid for uid, worst in first.items() if worst] == ["p19", "p18", "p17"]
    drawn = [uid for uid, worst in first.items() if not worst]
    assert len(drawn) == 3 and not set(drawn) & {"p19", "p18", "p17"}
    others = {tuple(uid for uid, worst in chosen(found, 3, seed).items() if not worst) for seed in range(20)}
    assert len(others) > 1  # they are drawn, by the seed
    assert len(chosen(scores({"a": 1.0, "b": 2.0}), 3, 0)) == 2


def row(uid: str, prompt: int, answer: int, rng: np.random.Generator) -> TargetRow:
    tokens = rng.integers(0, V, prompt + answer).astype(np.uint32)
    empty = np.zeros(0, np.float32)
    return TargetRow(uid, tokens, prompt, *[empty] * 4, None, empty, empty)


def shown(rows: list[TargetRow], seed: int = 0) -> tuple[list[ShownText], dict[str, torch.Tensor], torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    of_model = {r.prompt_uid: torch.randn(r.targets, V + 2, generator=generator) for r in rows}
    teacher_V = torch.randn(V, generator=generator).log_softmax(-1)

    def logits(some: Sequence[TargetRow]) -> Iterator[tuple[TargetRow, LogitsAt]]:
        for r in reversed(some):  # batches have an order of their own
            yield r, lambda place, r=r: of_model[r.prompt_uid][place]  # type: ignore[misc]

    def exact(row: TargetRow, place: slice) -> torch.Tensor:
        return teacher_V.expand(place.stop - place.start, -1)

    pairs = [(r, i == 0) for i, r in enumerate(rows)]
    return show_texts(pairs, logits, exact, V, "cpu", lambda before, token: f"<{token}>"), of_model, teacher_V


def test_what_is_shown_is_what_both_hold_likely() -> None:
    rng = np.random.default_rng(0)
    rows = [row("a", 3, 5, rng), row("b", 60, 4, rng)]
    texts, of_model, teacher_V = shown(rows)
    assert [(t.prompt, t.worst, len(t.before), t.more) for t in texts] == [("a", True, 2, 0), ("b", False, 40, 0)]
    for text, source in zip(texts, rows, strict=True):
        logq_nV = of_model[text.prompt][:, :V].log_softmax(-1)  # ids beyond the tokenizer's are left out
        kl_n = (teacher_V.exp() * (teacher_V - logq_nV)).sum(-1)
        np.testing.assert_allclose(text.kl, kl_n, atol=1e-5)  # five digits are kept
        answer = source.tokens[source.start :]
        assert text.tokens == [f"<{token}>" for token in answer]
        for n, token in enumerate(answer.tolist()):
            assert abs(text.probability[n] - float(logq_nV[n, token].exp())) <= 1e-5
            assert abs(text.teacher_probability[n] - float(teacher_V[token].exp())) <= 1e-5
            assert text.model[n][0][0] == f"<{int(logq_nV[n].argmax())}>"
            assert text.teacher[n][0] == (f"<{int(teacher_V.argmax())}>", round(float(teacher_V.max().exp()), 5))
    assert from_bytes(to_bytes(texts)) == texts


def test_a_long_text_is_shown_from_its_beginning() -> None:
    [text] = shown([row("long", 2, MOST_POSITIONS + 9, np.random.default_rng(1))])[0]
    assert len(text.tokens) == len(text.kl) == len(text.model) == MOST_POSITIONS and text.more == 9
