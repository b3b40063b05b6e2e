"""The parrot test separates who memorised from who has the rule, and its intervals hold what they promise."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from workers.evaluation.metrics.parrot import ParrotScores, parrot_scores
from workers.evaluation.tasks.items import TaskAnswer, TaskItem
from workers.evaluation.variants.edits import EditSources, variants_of
from workers.evaluation.variants.templates import template_of
from workers.randomness import generator

MODULUS, ITEMS = 97, 400


@cache
def questions() -> tuple[TaskItem, ...]:
    """Sums modulo 97, each with three variants of other numbers and one of another name."""
    items: list[TaskItem] = []
    for i in range(ITEMS):
        a, b = generator(0, "toy", i).integers(100, size=2).tolist()
        row = {
            "template": f"{{who}} counts in case {i}x . what is {{a}} plus {{b}} modulo 97 ?",
            "slots": {
                "who": {"values": ["ada", "bob"], "edit": "names"},
                "a": {"range": [0, 99]},
                "b": {"range": [0, 99]},
            },
            "values": {"a": a, "b": b},
            "answer": "=(a + b) % 97",
        }
        template = template_of(row, f"q{i}", "sums", "toy")
        items += [template.item(0), *template.variants(0, each=3).items]
    return tuple(items)


def rule(item: TaskItem) -> str:
    """What is asked for, worked out from the words."""
    words = item.prompt.split()
    return str((int(words[words.index("plus") - 1]) + int(words[words.index("plus") + 1])) % MODULUS)


def memory() -> Callable[[TaskItem], str]:
    """The answers to the given items; of another question, that of the one with which it shares the rarest words."""
    known = {frozenset(i.prompt.split()): i.answer for i in questions() if i.variant_of is None}
    times = Counter(word for words in known for word in words)

    def nearest(item: TaskItem) -> str:
        words = frozenset(item.prompt.split())
        return known[max(known, key=lambda k: sum(1 / times[w] for w in sorted(k & words)))]

    return nearest


def answers(
    of: Callable[[TaskItem], str], errors: float = 0.0, items: tuple[TaskItem, ...] = ()
) -> dict[str, TaskAnswer]:
    """What a model gives to all questions, with errors at a rate that hang on the question."""
    found = {}
    for item in items or questions():
        wrong = generator(1, "error", str(errors), item.prompt).random() < errors
        given = "none" if wrong else of(item)
        found[item.uid] = TaskAnswer(item.uid, given == item.answer, given, 1.0)
    return found


def scores(student: dict[str, TaskAnswer], teacher: dict[str, TaskAnswer] | None = None) -> ParrotScores:
    found = parrot_scores(questions(), teacher or answers(rule, 0.05), student, 1000, 0)
    assert found is not None
    return found


def test_who_memorised_is_told_from_who_has_the_rule() -> None:
    """research/methods.md: > .4 and < .02, before the same teacher, right on 95 % of questions."""
    parrot, ruled = scores(answers(memory())), scores(answers(rule, 0.03))
    assert parrot.index is not None and ruled.index is not None
    assert parrot.index.low > 0.4 and ruled.index.value < 0.02 and ruled.index.low <= 0 <= ruled.index.high
    assert parrot.by_edit["numbers"].index.value > 0.8 and abs(parrot.by_edit["names"].index.value) < 0.05
    assert len(parrot.flags) == 2 and ruled.flags == ()
    assert parrot.stale is not None and ruled.stale is not None
    assert parrot.stale.student.value > 0.9 and parrot.stale.difference.low > 0
    assert ruled.stale.difference.value == 0
    assert parrot.flips is not None and parrot.flips.student.value < 0.1 < 0.85 < parrot.flips.teacher.value


def test_a_student_with_errors_of_its_own_is_not_a_parrot() -> None:
    """Its errors hang on other things than its teacher's, and more of them; edits cost it nothing."""
    clumsy = answers(lambda item: rule(item) if generator(7, "own", item.prompt).random() > 0.2 else "?")
    found = scores(clumsy, answers(rule))
    assert found.index is not None and found.index.low < 0 < found.index.high and not found.flags


def test_drops_by_hand() -> None:
    """Two items, one with two variants by an edit: they weigh as one."""
    given = [TaskItem(uid, "t", "d", uid, "exact", answer="x") for uid in ("a", "b")]
    made = [
        replace(given[0], uid="a1", variant_of="a", edit="numbers", answer="y"),
        replace(given[0], uid="a2", variant_of="a", edit="numbers", answer="z"),
        replace(given[1], uid="b1", variant_of="b", edit="numbers", answer="y"),
        replace(given[1], uid="b2", variant_of="b", edit="names", reviewed=False),
        replace(given[1], uid="b3", variant_of="b", edit="no_question"),
    ]
    student = {"a": "x", "b": "x", "a1": " x", "a2": "z", "b1": "q", "b2": "x", "b3": "x"}
    teacher = {"a": "x", "b": "n", "a1": "y", "a2": "z", "b1": "y", "b2": "x", "b3": "n"}

    def of(given_by: dict[str, str]) -> dict[str, TaskAnswer]:
        return {
            i.uid: TaskAnswer(i.uid, given_by[i.uid].strip() == i.answer, given_by[i.uid], 1.0) for i in [*given, *made]
        }

    found = parrot_scores([*made, *given], of(teacher), of(student), 200, 0)
    assert found is not None and found.index is not None and found.stale is not None and found.flips is not None
    numbers, names = found.by_edit["numbers"], found.by_edit["names"]
    assert (numbers.items, numbers.student, numbers.teacher) == (2, (0.5 + 1) / 2, (0 - 1) / 2)
    assert numbers.index.value == 1.25 and (names.items, names.unreviewed, names.index.value) == (1, 1, 1.0)
    assert found.index.value == pytest.approx((0.5 + 2 + 1) / 3)  # cells: numbers of a and b, names of b
    assert (found.stale.student.value, found.stale.teacher.value) == (0.25, 0)  # of 2 items right, and of 1
    assert (found.flips.student.value, found.flips.teacher.value) == (0.25, 0.5)
    assert found.by_edit["no_question"].index.value == 0 and found.items == 2 and found.flags == ()


def test_the_same_answer_in_other_words_is_stale() -> None:
    given = TaskItem("a", "t", "d", "a", "regex", answer=r".*\b12\b.*")
    changed = replace(given, uid="a1", answer=r".*\b13\b.*", variant_of="a", edit="numbers")
    right = {"a": TaskAnswer("a", True, "12", 1.0), "a1": TaskAnswer("a1", True, "13", 1.0)}
    stale = right | {"a1": TaskAnswer("a1", False, "It is 12 mg", 1.0)}
    found = parrot_scores([given, changed], right, stale, 100, 0)
    assert found is not None and found.stale is not None and found.stale.student.value == 0
    found = parrot_scores([given, changed], right, stale, 100, 0, matches=full_matches)
    assert found is not None and found.stale is not None and found.stale.student.value == 1


def full_matches(pairs: list[tuple[str, str]]) -> list[bool]:
    return [re.fullmatch(pattern, text) is not None for pattern, text in pairs]


def test_it_goes_with_the_edits_of_plain_items() -> None:
    plain = [TaskItem(f"i{n}", "t", "d", f"Ada has {n}. How many?", "exact", answer=str(n)) for n in range(30)]
    made = variants_of(plain, ["names"], 0, EditSources(names={"Ada": ["Bob"]})).items
    both = (*plain, *made)
    found = parrot_scores(both, answers(lambda i: i.answer, 0, both), answers(lambda i: "1", 0, both), 200, 0)
    assert found is not None and found.index is not None and found.index.value == 0 and found.stale is None


def test_what_is_missing_is_named() -> None:
    right = answers(rule)
    assert parrot_scores([i for i in questions() if i.variant_of is None], right, right, 10, 0) is None
    with pytest.raises(ValueError, match="student has no answer to q0~"):
        parrot_scores(questions(), right, {k: v for k, v in right.items() if "~" not in k}, 10, 0)
    with pytest.raises(ValueError, match="twice"):
        parrot_scores(questions()[:2] * 2, right, right, 10, 0)
    with pytest.raises(ValueError, match="both must be there"):
        parrot_scores(questions()[1:], right, right, 10, 0)


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    """1,000 times 80 items, whose answers by teacher and student, before and after, go together."""
    rng, inside, repeats = np.random.default_rng(5), 0, 1000
    chances = {("t", 0): 0.9, ("t", 1): 0.8, ("s", 0): 0.85, ("s", 1): 0.6}
    items = [TaskItem(f"{i}", "t", "d", "", "exact") for i in range(80)]
    items += [replace(i, uid=f"{i.uid}v", variant_of=i.uid, edit="order") for i in items]
    for repeat in range(repeats):
        hard_P = rng.random(80)
        u_P = np.where(rng.random((4, 80)) < 0.5, hard_P, rng.random((4, 80)))  # half of the answers hang on the item
        right = {key: u_P[k] < p for k, (key, p) in enumerate(chances.items())}
        told = {
            who: {
                i.uid: TaskAnswer(i.uid, bool(right[who, int(i.edit is not None)][n % 80]), "", 1)
                for n, i in enumerate(items)
            }
            for who in ("t", "s")
        }
        found = parrot_scores(items, told["t"], told["s"], 300, repeat)
        assert found is not None and found.index is not None
        inside += found.index.low <= 0.15 <= found.index.high
    assert 930 <= inside <= 970
