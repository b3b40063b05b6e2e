"""Items with slots: answers that follow, variants that do what their edit says, rows that are refused."""

from __future__ import annotations

from typing import Any

import pytest

from workers.evaluation.variants.arithmetic import NoNumber, evaluate, names_in, number_text
from workers.evaluation.variants.templates import TaskTemplate, template_of

DOSE: dict[str, Any] = {
    "template": "{who} weighs {weight} kg and gets {dose} mg per kg. How many mg?",
    "slots": {
        "who": {"values": ["Ada", "Bob", "Eve"], "edit": "names"},
        "weight": {"range": [8, 30]},
        "dose": [5, 10, 15],
    },
    "values": {"weight": 12, "dose": 10},
    "answer": "=weight * dose",
}
STATE: dict[str, Any] = {
    "template": "The {who} {state} a fever. Is a drug indicated?",
    "slots": {"who": ["child", "doll"], "state": {"values": ["has", "does not have"], "edit": "negation"}},
    "choices": [" yes", " no"],
    "answer": {"who": {"child": {"state": {"has": " yes", "does not have": " no"}}, "doll": " no"}},
}


def template(row: dict[str, Any], **changed: Any) -> TaskTemplate:
    return template_of(row | changed, "u", "t", "med")


def test_the_item_itself() -> None:
    item = template(DOSE).item(0)
    assert item.prompt == "Ada weighs 12 kg and gets 10 mg per kg. How many mg?"
    assert (item.answer, item.marking, item.uid, item.variant_of) == ("120", "exact", "u", None)


@pytest.mark.parametrize("seed", range(5))
def test_variants_change_the_answer_just_where_they_say_so(seed: int) -> None:
    original, found = template(DOSE).item(seed), template(DOSE).variants(seed, each=20)
    assert {v.edit for v in found.items} == {"numbers", "names"}
    numbers = [v for v in found.items if v.edit == "numbers"]
    assert len(numbers) == 20 == len({v.prompt for v in numbers}) == len({v.uid for v in numbers})
    for v in numbers:
        words = v.prompt.split()
        assert v.answer == str(int(words[2]) * int(words[6])) != original.answer and words[0] == "Ada"
    names = [v for v in found.items if v.edit == "names"]
    assert {v.prompt.split()[0] for v in names} == {"Bob", "Eve"} and {v.answer for v in names} == {"120"}
    assert all(v.variant_of == "u" for v in found.items)
    assert found == template(DOSE).variants(seed, each=20)


def test_answers_by_tables_of_tables() -> None:
    found = template(STATE).variants(0, each=9).items
    assert {(v.edit, v.prompt, v.answer) for v in found} == {
        ("entity", "The doll has a fever. Is a drug indicated?", " no"),
        ("negation", "The child does not have a fever. Is a drug indicated?", " no"),
    }
    assert all(v.marking == "choice" and v.choices == (" yes", " no") for v in found)


def test_a_slot_that_changes_nothing_is_counted() -> None:
    found = template(STATE, values={"who": "doll"}).variants(0)
    assert [v.edit for v in found.items] == ["entity"]
    ((edit, reason),) = found.skipped
    assert edit == "negation" and "change the answer" in reason


def test_of_wrong_answers_the_originals_is_one() -> None:
    sums = template(DOSE, wrong=["=weight + dose", "=weight * dose + 1"], form=" {answer} mg")
    item = sums.item(1)
    assert item.marking == "choice" and set(item.choices) == {" 120 mg", " 22 mg", " 121 mg"}
    for v in sums.variants(1, ["numbers"], each=10).items:
        assert v.answer in v.choices and " 120 mg" in v.choices and len(set(v.choices)) == 3
    places = {sums.variants(s, ["numbers"]).items[0].choices.index(" 120 mg") for s in range(20)}
    assert places == {0, 1, 2}


def test_a_pattern_marks_what_is_written() -> None:
    item = template(DOSE, pattern=r"\D*{answer}\b.*", answer="=weight / dose").item(0)
    assert (item.marking, item.answer) == ("regex", r"\D*1\.2\b.*")


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"answer": "=weight * height"}, "height"),
        ({"answer": "=who * 2"}, "who"),
        ({"answer": "=open(weight)"}, "calls"),
        ({"answer": "=weight / (dose - 10)"}, "values"),
        ({"answer": {"who": {"Ada": "x"}}}, "lack Bob, Eve"),
        ({"answer": None}, "an answer is"),
        ({"template": "{who.__class__} {weight}"}, "no slot"),
        ({"template": "{weight!r}"}, "no slot"),
        ({"template": "{weight"}, "braces"),
        ({"slots": {"weight": [5]}, "values": {}}, "two or more"),
        ({"slots": {"weight": [5, float("inf")]}, "values": {}}, "two or more"),
        ({"slots": {"who": {"values": ["a", "b"], "edit": "numbers"}}, "values": {}}, "numbers of numbers only"),
        ({"slots": {"weight": {"range": [9, 2]}}, "values": {}}, "smaller first"),
        ({"values": {"weight": 99}}, "none of the slot's"),
        ({"values": {"height": 99}}, "slots among"),
        ({"choices": ["1"], "wrong": ["2"]}, "one at most"),
        ({"choices": ["1", "2"]}, "one of its choices"),
        ({"choices": ["120", " 120"]}, "all different"),
        ({"form": "mg"}, "answer"),
        ({"template": "{weight} \ud800"}, "is no text"),
        ({"pattern": "("}, "answer"),
        ({"pattern": "({answer}"}, "no regular expression"),
        ({"answers": "1"}, "unknown keys answers"),
    ],
)
def test_rows_that_are_refused_say_why(changed: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=r"^u: ") as error:
        template(DOSE, **changed)
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("a + b * 2", 13),
        ("-(a - b) ** 2", -4),
        ("a / b", 0.6),
        ("b // a + b % a", 3),
        ("max(a, b) - min(a, 1) + abs(-1) + round(2.6)", 8),
        ("0.1 + 0.2", 0.1 + 0.2),
    ],
)
def test_arithmetic(expression: str, value: float) -> None:
    assert evaluate(expression, {"a": 3, "b": 5}) == value


def test_numbers_are_written_as_people_write_them() -> None:
    assert [number_text(n) for n in (120, 120.0, 0.1 + 0.2, -2.50, 1 / 3)] == [
        "120",
        "120",
        "0.3",
        "-2.5",
        "0.3333333333",
    ]
    assert names_in("max(a, b) + 1") == {"a", "b"}


@pytest.mark.parametrize(
    "expression",
    [
        *("a.b", "a[0]", "lambda: 1", "[1]", "'x' * 9", "True", "a if b else 1", "a < b", "open('x')", "max(*a)"),
        *("(a := 1)", "1; 2", "", "max()", "max(1, key=a)", "1 " + "+ 1" * 200, "(" * 150 + "1" + ")" * 150, "a and b"),
    ],
)
def test_all_else_is_refused(expression: str) -> None:
    with pytest.raises(ValueError):
        evaluate(expression, {"a": 3, "b": 5})


@pytest.mark.parametrize(
    "expression", ["1 / 0", "9 ** 9 ** 9", "(0 - 1) ** 0.5", "1e300 * 1e300", "10 ** 16", "round(1, 0.5)"]
)
def test_what_has_no_value_says_so(expression: str) -> None:
    with pytest.raises(NoNumber):
        evaluate(expression, {})
