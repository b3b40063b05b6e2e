"""Bridges of an adder are its carries; those of a random model are what changing it by hand says; what students do."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from support.comparing.tolerances import in_float64, of_capture
from support.toys.carrying_adder import CARRIES, DIGITS, END, FILLER, CarryingAdder, decode, encode, working
from support.toys.carrying_adder import V as ADDER_V

from workers.evaluation.bridges.comparing import compare_bridges
from workers.evaluation.bridges.config import BridgesConfig
from workers.evaluation.bridges.finding import find_bridges
from workers.evaluation.bridges.texts import BridgeFindings, BridgeTexts
from workers.evaluation.bridges.writing import Begun, Question, Writer, questions_of
from workers.evaluation.tasks.asked import AskedItems, TokenizedItem
from workers.evaluation.tasks.items import TaskItem
from workers.logit_map import LogitMap
from workers.targets.heads import TeacherHead
from workers.two_part_model import TwoPartModel

SUMS = [(47, 85), (12, 34), (99, 99), (50, 58), (73, 19), (20, 17), (86, 86), (31, 62)]
ALL = BridgesConfig(texts=100, positions=100, sure=0.9)


def adder(*, forgets_carries: bool = False, batch_tokens: int = 64) -> Writer:
    model: Any = CarryingAdder(forgets_carries=forgets_carries)
    two_parts = TwoPartModel(model, "cpu")
    assert two_parts.parted
    return Writer(two_parts, ADDER_V, batch_tokens, [END], decode)


def sums(pairs: Sequence[tuple[int, int]] = SUMS) -> list[Question]:
    """Whose answer is right if it ends with the sum, whatever its working looks like."""
    found = []
    for a, b in pairs:
        digits = working(a, b).split("=")[1]
        item = TaskItem(f"{a}+{b}", "sums", "math", f"{a}+{b}=", "regex", answer=f".*[=:]{digits}")
        found.append(Question(TokenizedItem(item, encode(item.prompt)), max_new_tokens=9))
    return found


HEAD = TeacherHead(torch.eye(ADDER_V), None, LogitMap())
CARRY, FILL, DIGIT = "carry", "filler", "digit"


def kinds(texts: BridgeTexts) -> list[str]:
    """What each token that was changed is."""
    ids = [int(texts.tokens[b][texts.starts[b] + k]) for b, k in zip(texts.text_n, texts.place_n, strict=True)]
    known = {FILLER: FILL} | dict.fromkeys(CARRIES, CARRY) | dict.fromkeys(DIGITS, DIGIT)
    return [known[i] for i in ids]


def test_the_adder_adds() -> None:
    answers = adder().finish([Begun(question) for question in sums()])
    assert [decode(a.ids) for a in answers] == [working(a, b) for a, b in SUMS]
    assert all(a.correct and a.counting == 8 for a in answers)
    wrong = adder(forgets_carries=True).finish([Begun(question) for question in sums()])
    assert [a.correct for a in wrong] == ["b" not in working(a, b) for a, b in SUMS]


@pytest.mark.parametrize("batch_tokens", [1, 64, 10_000])
def test_carries_are_bridges_and_fillers_are_none(batch_tokens: int) -> None:
    found = find_bridges(adder(batch_tokens=batch_tokens), sums(), ALL, seed=0)
    of_kind = {kind: found.bridge_n[np.array(kinds(found)) == kind].tolist() for kind in (CARRY, FILL, DIGIT)}
    assert of_kind == {CARRY: [True] * 16, FILL: [False] * 16, DIGIT: [True] * 24}
    assert (found.place_n != 4).all(), "at = it is not sure"
    assert found.asked == len(found.names) == len(SUMS)


def test_few_texts_and_positions_are_those_of_their_seed_whatever_the_order() -> None:
    few = BridgesConfig(texts=3, positions=2, sure=0.9)
    one, other, turned = (
        find_bridges(adder(), questions, few, seed) for seed, questions in ((0, sums()), (1, sums()), (0, sums()[::-1]))
    )
    assert len(one.names) == 3 and one.text_n.tolist() == [0, 0, 1, 1, 2, 2]
    assert one.to_bytes() == turned.to_bytes() and one.names != other.names
    whole = find_bridges(adder(), sums(), ALL, seed=0)
    named = {(whole.names[b], k): w for b, k, w in zip(whole.text_n, whole.place_n, whole.bridge_n, strict=True)}
    for b, k, w in zip(one.text_n, one.place_n, one.bridge_n, strict=True):
        assert named[one.names[b], k] == w


def test_only_right_answers_have_bridges() -> None:
    teacher = adder(forgets_carries=True)
    found = find_bridges(teacher, sums(), ALL, seed=0)
    assert set(found.names) == {"sums/12+34", "sums/20+17", "sums/31+62"} and found.asked == 8
    none = find_bridges(teacher, sums([(47, 85)]), ALL, seed=0)
    assert (none.asked, none.names, none.text_n.tolist()) == (1, [], [])
    assert BridgeTexts.from_bytes(none.to_bytes()).names == []
    nothing = compare_bridges(adder(), none, {}, None)
    assert (nothing.asked, nothing.texts, nothing.kl, nothing.repaired) == (1, 0, [], [])


def test_a_student_that_forgets_carries_is_far_off_at_bridges_and_the_token_repairs_it() -> None:
    texts = find_bridges(adder(), sums(), ALL, seed=0)
    texts = BridgeTexts.from_bytes(texts.to_bytes())
    by_name = {question.name: question for question in sums()}
    found = compare_bridges(adder(forgets_carries=True), texts, by_name, HEAD)
    assert found == BridgeFindings.from_bytes(found.to_bytes())
    token_n = np.array([texts.tokens[b][texts.starts[b] + k] for b, k in zip(texts.text_n, texts.place_n, strict=True)])
    forgotten = token_n == CARRIES[1]
    # Its logits of the two carries are the other way round: the KL is their difference in log-odds.
    logp = torch.tensor([9.0, 3.0, *[0.0] * (ADDER_V - 2)]).double().log_softmax(-1)
    expected = float((logp[0].exp() - logp[1].exp()) * (logp[0] - logp[1]))
    np.testing.assert_allclose(np.array(found.kl)[forgotten], expected, rtol=0, atol=of_capture(expected + 9))
    np.testing.assert_allclose(np.array(found.kl)[~forgotten], 0, rtol=0, atol=of_capture(9))
    assert found.agree == (~forgotten).tolist()
    right = ["b" not in working(a, b) for a, b in SUMS]
    by_sum = dict(zip((f"sums/{a}+{b}" for a, b in SUMS), right, strict=True))
    assert found.correct == [by_sum[name] for name in texts.names]
    # The last carry of equally bad ones is the worst: before it stands the teacher's working, after it no carry is one.
    assert [r for r in found.repaired if r is not None] == [True] * right.count(False)
    assert [r for r in found.repaired_without if r is not None] == [False] * right.count(False)
    assert [r is None for r in found.repaired] == found.correct


def test_a_student_that_is_its_teacher_is_near_everywhere_and_wrong_nowhere() -> None:
    texts = find_bridges(adder(), sums(), ALL, seed=0)
    found = compare_bridges(adder(), texts, {q.name: q for q in sums()}, HEAD)
    assert max(map(abs, found.kl)) <= of_capture(9) and all(found.agree) and all(found.correct)
    assert set(found.repaired) == {None}


def test_questions_are_given_items_of_a_domain_that_are_answered_by_writing() -> None:
    items = [
        TaskItem("a", "t", "math", "p", "exact", answer="1"),
        TaskItem("b", "t", "math", "p", "choice", ("x", "y"), "x"),
        TaskItem("c", "t", "law", "p", "regex", answer="1"),
        TaskItem("d", "t", "math", "p", "exact", answer="1", variant_of="a"),
        TaskItem("e", "t", "math", "p", "format"),
        TaskItem("f", "t", "math", "p", "tests", tests="x"),
    ]
    unit = AskedItems(tuple(TokenizedItem(item, (1,)) for item in items), max_new_tokens=7, stop=("\n",))
    found = questions_of([unit], "math")
    assert [(q.name, q.max_new_tokens, q.stop) for q in found] == [("t/a", 7, ("\n",)), ("t/f", 7, ("\n",))]


# A random model, by hand ------------------------------------------------------------------------------------

V, STOP, MOST = 60, 1, 6


def written(model: Any, ids: list[int], most: int) -> list[int]:
    """What whole texts, one by one, go on with."""
    start = len(ids)
    for _ in range(most):
        with torch.no_grad():
            ids = [*ids, int(model(torch.tensor([ids]), use_cache=False).logits[0, -1, :V].argmax())]
        if ids[-1] == STOP:
            return ids[start:-1]
    return ids[start:]


def spelt(ids: Sequence[int]) -> str:
    return "".join(f"<{i}>" for i in ids)


@pytest.fixture(scope="module")
def random_questions() -> list[list[int]]:
    rng = np.random.default_rng(0)
    return [rng.integers(3, V, n).tolist() for n in (5, 2, 8, 3, 6, 4, 7, 5, 3, 8)]


def like(ids: Sequence[int]) -> str:
    """What ends with an even number where these do, and with an odd one where they do."""
    return f"(<[0-9]+>)*<[0-9]*[{'02468' if ids[-1] % 2 == 0 else '13579'}]>" if ids else ".*"


def named_question(prompt: list[int], answer: str, stop: tuple[str, ...] = ()) -> Question:
    item = TaskItem(spelt(prompt), "t", "d", "p", "regex", answer=answer)
    return Question(TokenizedItem(item, tuple(prompt)), MOST, stop)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("batch_tokens", [1, 70, 10_000])
def test_bridges_of_a_random_model_are_those_found_one_by_one(
    family: str, batch_tokens: int, tiny_model: Callable[..., Any], random_questions: list[list[int]]
) -> None:
    """Learned positions are as many as prompt and answer need."""
    sizes = {"n_positions": 8 + MOST} if family == "gpt2" else {}
    model = tiny_model(family, seed=3, vocab_size=V + 4, initializer_range=0.4, **sizes).eval().double()
    with torch.no_grad():
        model.get_output_embeddings().weight[STOP] *= 1.5  # so that some texts end
    own = {spelt(p): written(model, p, MOST) for p in random_questions}
    questions = [named_question(p, like(own[spelt(p)])) for p in random_questions]
    writer = Writer(TwoPartModel(model, "cpu"), V, batch_tokens, [STOP], spelt)
    found = find_bridges(writer, questions, BridgesConfig(texts=20, positions=9, sure=0.02), seed=0)
    assert len(found.names) == len(questions) and len(found.text_n) > 10
    flags = []
    for b, k in zip(found.text_n.tolist(), found.place_n.tolist(), strict=True):
        whole, start = found.tokens[b].tolist(), found.starts[b]
        name = spelt(whole[:start])
        assert whole[start:] == own[name]
        with torch.no_grad():
            logits = model(torch.tensor([whole[: start + k]]), use_cache=False).logits[0, -1, :V]
        assert float(logits.softmax(-1).max()) > 0.02
        forced = int(logits.topk(2).indices[1])
        ids = whole[start : start + k]
        if forced != STOP:
            ids = [*ids, forced, *written(model, [*whole[: start + k], forced], MOST - k - 1)]
        flags.append(re.fullmatch(like(own[name]), spelt(ids)) is None)
    assert found.bridge_n.tolist() == flags and len(set(flags)) == 2


def test_tokens_that_stand_behind_what_stops_an_answer_are_no_tokens_of_it(
    tiny_model: Callable[..., Any], random_questions: list[list[int]]
) -> None:
    model = tiny_model("llama", seed=3, vocab_size=V, initializer_range=0.4).double()
    answers = [(prompt, written(model, prompt, MOST)) for prompt in random_questions]
    prompt, own = next((p, o) for p, o in answers if len(o) == MOST and len(set(o[:4])) == 4)
    stop = (spelt(own[3:4]),)
    question = named_question(prompt, ".*", stop)
    writer = Writer(TwoPartModel(model, "cpu"), V, 999, [STOP], spelt)
    [answer] = writer.finish([Begun(question)])
    assert answer.ids == tuple(own) and answer.counting == 3
    found = find_bridges(writer, [question], BridgesConfig(texts=9, positions=9, sure=0.001), seed=0)
    assert found.place_n.tolist() == [0, 1, 2] and not found.bridge_n.any()


def test_a_students_scores_and_repairs_are_those_found_one_by_one(
    tiny_model: Callable[..., Any], random_questions: list[list[int]]
) -> None:
    teacher = in_float64(tiny_model("qwen3", seed=5, vocab_size=V, initializer_range=0.4))
    student = in_float64(tiny_model("llama", seed=7, vocab_size=V + 4, initializer_range=0.4))
    right = {f"t/{spelt(p)}": like(written(teacher, p, MOST)) for p in random_questions}
    questions = [named_question(p, right[f"t/{spelt(p)}"]) for p in random_questions]
    settings = BridgesConfig(texts=20, positions=9, sure=0.02)
    texts = find_bridges(Writer(TwoPartModel(teacher, "cpu"), V, 99, [], spelt), questions, settings, seed=0)
    head = TeacherHead(teacher.lm_head.weight.detach().float(), None, LogitMap())
    writer = Writer(TwoPartModel(student, "cpu"), V, 99, [], spelt)
    found = compare_bridges(writer, texts, {q.name: q for q in questions}, head)
    for b, k, kl, agree in zip(texts.text_n, texts.place_n, found.kl, found.agree, strict=True):
        ids = torch.from_numpy(texts.tokens[b][None, : texts.starts[b] + k])
        with torch.no_grad():
            t, q = (m(ids, use_cache=False).logits[0, -1, :V].log_softmax(-1) for m in (teacher, student))
        assert kl == pytest.approx(float((t.exp() * (t - q)).sum()), abs=4 * of_capture(float(-q.min())))
        assert agree == bool(t.argmax() == q.argmax())
    for b, name in enumerate(texts.names):
        prompt = texts.tokens[b][: texts.starts[b]].tolist()
        assert found.correct[b] == bool(re.fullmatch(right[name], spelt(written(student, prompt, MOST)))), name
        bridges = np.flatnonzero((texts.text_n == b) & texts.bridge_n)
        if found.correct[b] or not len(bridges):
            assert found.repaired[b] is found.repaired_without[b] is None
            continue
        k = int(texts.place_n[bridges[np.argmax(np.array(found.kl)[bridges])]])
        for tokens, repaired in ((k + 1, found.repaired[b]), (k, found.repaired_without[b])):
            begun = texts.answer(b, tokens)
            rest = written(student, [*prompt, *begun], MOST - tokens)
            assert repaired == bool(re.fullmatch(right[name], spelt([*begun, *rest])))
    assert len({(r, w) for r, w in zip(found.repaired, found.repaired_without, strict=True) if r is not None}) > 1
