"""What a model answers: beside whole texts, one by one, in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from support.comparing.tolerances import in_float64, of_capture

from workers.evaluation.config import CHUNK_NUMBERS
from workers.evaluation.tasks.answers import answers_from_bytes, answers_to_bytes
from workers.evaluation.tasks.asked import AskedItems, TokenizedItem
from workers.evaluation.tasks.asking import ask, choice_logprobs, greedy
from workers.evaluation.tasks.items import TaskItem
from workers.two_part_model import TwoPartModel

V, STOP = 280, 1
"""Ids that count: the models have more."""


def close(largest: float) -> float:
    """Between sums of up to four log-probabilities, whose logits in float64 become float32 for the softmax."""
    return 4 * of_capture(largest)


def choice_item(uid: int, prompt: list[int], choices: list[list[int]]) -> TokenizedItem:
    names = tuple(f"choice {c}" * (c + 1) for c in range(len(choices)))
    item = TaskItem(str(uid), "t", "d", "p", "choice", names, names[0])
    return TokenizedItem(item, tuple(prompt), tuple(map(tuple, choices)))


@pytest.fixture
def items() -> list[TokenizedItem]:
    """Of unequal lengths: some choices of one token, some that begin alike."""
    rng = np.random.default_rng(0)
    made = []
    for uid in range(7):
        prompt = rng.integers(3, V, 2 + 3 * uid).tolist()
        first = rng.integers(3, V, 4).tolist()
        choices = [[t] for t in first] if uid % 2 else [first[:n] for n in (1, 2, 4)] + [[first[0], 7, 8]]
        made.append(choice_item(uid, prompt, choices))
    return made


def one_by_one(model: Any, item: TokenizedItem) -> list[float]:
    sums = []
    for choice in item.choice_token_ids:
        ids = torch.tensor([[*item.prompt_token_ids, *choice]])
        with torch.no_grad():
            logq = model(ids).logits[0, :, :V].double().log_softmax(-1)
        start = len(item.prompt_token_ids)
        sums.append(sum(float(logq[start + i - 1, token]) for i, token in enumerate(choice)))
    return sums


@pytest.mark.parametrize("family", ["llama", "gemma3_text", "qwen3_moe"])
@pytest.mark.parametrize("batch_tokens", [1, 40, 4096])
def test_choices_have_the_log_probability_of_their_tokens(
    family: str, batch_tokens: int, items: list[TokenizedItem], tiny_model: Callable[..., Any]
) -> None:
    model = in_float64(tiny_model(family))
    expected = [one_by_one(model, item) for item in items]
    found = choice_logprobs(TwoPartModel(model, "cpu"), items, V, batch_tokens)
    for own, by_hand in zip(found, expected, strict=True):
        np.testing.assert_allclose(own, by_hand, rtol=0, atol=close(np.abs(by_hand).max()))


def test_choices_do_not_depend_on_how_many_logits_there_are_at_once(
    items: list[TokenizedItem], tiny_model: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = TwoPartModel(in_float64(tiny_model("llama")), "cpu")
    usual = choice_logprobs(model, items, V, 100)
    monkeypatch.setitem(CHUNK_NUMBERS, "cpu", 3 * 300)
    for own, other in zip(choice_logprobs(model, items, V, 100), usual, strict=True):
        np.testing.assert_allclose(own, other, rtol=0, atol=close(np.abs(other).max()))


def test_choices_of_one_token_take_one_text(items: list[TokenizedItem], tiny_model: Callable[..., Any]) -> None:
    model = TwoPartModel(tiny_model("llama"), "cpu")
    before = model.steps
    choice_logprobs(model, [items[1], items[3]], V, 1)
    assert model.steps == before + 2, "one pass each, though each has four choices"


def by_whole_texts(model: Any, prompt: list[int], most: int) -> tuple[list[int], list[float]]:
    ids, logprobs = list(prompt), []
    for _ in range(most):
        with torch.no_grad():
            logq = model(torch.tensor([ids]), use_cache=False).logits[0, -1, :V].double().log_softmax(-1)
        logprobs.append(float(logq.max()))
        ids.append(int(logq.argmax()))
        if ids[-1] == STOP:
            return ids[len(prompt) : -1], logprobs
    return ids[len(prompt) :], logprobs


@pytest.mark.parametrize("family", ["llama", "gemma3_text", "qwen3_moe", "gpt_oss"])
@pytest.mark.parametrize("batch_tokens", [1, 60, 4096])
def test_a_model_writes_what_it_finds_most_probable(
    family: str, batch_tokens: int, tiny_model: Callable[..., Any]
) -> None:
    model = in_float64(tiny_model(family))
    with torch.no_grad():
        model.lm_head.weight[STOP] *= 1.5  # so that some texts end
    rng = np.random.default_rng(1)
    prompts = [tuple(rng.integers(3, V, n).tolist()) for n in (9, 1, 4, 12, 4)]
    found = greedy(TwoPartModel(model, "cpu"), prompts, 6, V, batch_tokens, [STOP])
    for prompt, (ids, logprobs) in zip(prompts, found, strict=True):
        by_hand, expected = by_whole_texts(model, list(prompt), 6)
        assert ids == by_hand
        np.testing.assert_allclose(logprobs, expected, rtol=0, atol=close(10))


def test_items_of_all_kinds_are_answered_in_their_order(
    items: list[TokenizedItem], tiny_model: Callable[..., Any]
) -> None:
    model = in_float64(tiny_model("llama"))  # rows are batched with others when they are asked
    decode = lambda ids: "".join(f"<{i}>" for i in ids)  # noqa: E731
    [(written, logprobs)] = greedy(TwoPartModel(model, "cpu"), [(5, 6)], 4, V, 99, [])
    right, pattern = f" {decode(written)} ", "(<[0-9]+>){4}"
    others = [
        TokenizedItem(TaskItem("e", "t", "d", "p", "exact", answer=right), (5, 6)),
        TokenizedItem(TaskItem("w", "t", "d", "p", "exact", answer="another"), (5, 6)),
        TokenizedItem(TaskItem("r", "t", "d", "p", "regex", answer=pattern), (5, 6)),
    ]
    asked = AskedItems((others[0], items[0], *others[1:], items[1]), max_new_tokens=4)
    answers = ask(TwoPartModel(model, "cpu"), asked, V, 99, [], decode)
    assert [a.uid for a in answers] == ["e", "0", "w", "r", "1"]
    assert [a.correct for a in answers if a.uid in "ewr"] == [True, False, True]
    assert answers[0].given == decode(written)
    assert answers[0].confidence == pytest.approx(float(np.exp(sum(logprobs))))
    assert answers_from_bytes(answers_to_bytes(answers)) == answers


def test_what_is_written_is_cut_before_the_first_string_that_stops(tiny_model: Callable[..., Any]) -> None:
    model = TwoPartModel(tiny_model("llama"), "cpu")
    decode = lambda ids: "".join(f"<{i}>" for i in ids)  # noqa: E731
    [(written, logprobs)] = greedy(model, [(5, 6)], 4, V, 99, [])
    item = TokenizedItem(TaskItem("e", "t", "d", "p", "exact", answer=decode(written[:2])), (5, 6))
    stops = AskedItems((item,), max_new_tokens=4, stop=(decode(written[2:3]), "never"))
    [answer] = ask(model, stops, V, 99, [], decode)
    assert answer.correct and answer.confidence == pytest.approx(float(np.exp(sum(logprobs[:3]))))
