"""Rows of a task's file: what an item is, and why a row is none."""

from __future__ import annotations

from typing import Any

import pytest

from workers.evaluation.tasks.asked import AskedItems, TokenizedItem, asked_now, freeze_items, in_units
from workers.evaluation.tasks.config import TaskConfig
from workers.evaluation.tasks.items import TaskItem
from workers.evaluation.tasks.rows import item_of

CHOICES = {"prompt": "Fever?", "choices": ["rest", "pay"], "domain": "medical"}


def item(row: dict[str, Any], **settings: Any) -> TaskItem:
    return item_of(row, "t", TaskConfig(path="x.jsonl", **settings))


@pytest.mark.parametrize("answer", [1, "pay"])
def test_the_answer_of_choices_is_an_index_or_the_text(answer: Any) -> None:
    found = item(CHOICES | {"answer": answer})
    assert (found.marking, found.answer, found.choices, found.domain) == ("choice", "pay", ("rest", "pay"), "medical")


def test_what_a_row_has_says_how_it_is_marked() -> None:
    assert item({"prompt": "p", "answer": "a"}, domain="d").marking == "exact"
    assert item({"prompt": "p", "answer": 42}, domain="d").answer == "42"
    assert item({"prompt": "p", "tests": "assert f()"}, domain="d").marking == "tests"
    assert item({"prompt": "p", "answer": "a+"}, domain="d", marking="regex").marking == "regex"
    assert item({"prompt": "p", "answer": "a", "domain": "own"}, domain="d").domain == "d"


def test_an_item_without_id_is_named_by_what_it_says() -> None:
    one, same, other = (item(CHOICES | {"answer": a}).uid for a in (0, 0, 1))
    assert one == same != other
    assert item(CHOICES | {"answer": 0, "id": 7}).uid == "7"


@pytest.mark.parametrize(
    ("row", "why"),
    [
        (["no object"], "is list, not an object"),
        ({"prompt": "p", "domain": "d"}, "has neither"),
        (CHOICES | {"answer": 2}, "its choices are 0 to 1"),
        (CHOICES | {"answer": True}, "neither one of its choices"),
        (CHOICES | {"answer": "A"}, "neither one of its choices"),
        (CHOICES | {"answer": 0, "choices": ["one"]}, "two or more"),
        (CHOICES | {"answer": 0, "choices": ["one", " one"]}, "twice"),
        (CHOICES | {"answer": 0, "choices": ["one", 2]}, "'choices' is no text"),
        (CHOICES | {"answer": 0, "domain": None}, "has no 'domain'"),
        (CHOICES | {"answer": 0, "prompt": " "}, "'prompt' is"),
        (CHOICES | {"answer": 0, "prompt": "\ud800"}, "Unicode"),
        (CHOICES, "neither one of its choices"),
    ],
)
def test_a_row_that_is_no_item_says_why(row: Any, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        item(row)


def test_a_pattern_that_is_none_is_no_item() -> None:
    with pytest.raises(ValueError, match="no regular expression"):
        item({"prompt": "p", "answer": "(", "domain": "d"}, marking="regex")
    with pytest.raises(ValueError, match="has no 'choices'"):
        item({"prompt": "p", "answer": "a", "domain": "d"}, marking="choice")


def test_items_come_back_from_the_run_as_they_were(local: Any) -> None:
    items = [
        TokenizedItem(item(CHOICES | {"answer": i % 2, "id": i}, domain="d"), (1, i), ((2,), (3, 4)))
        for i in range(100)
    ]
    units = in_units(items, normalise="characters", max_new_tokens=5, stop=("\n",))
    assert [len(unit.items) for unit in units] == [64, 36]
    assert asked_now(local) == []
    kept = freeze_items(local, units)
    assert asked_now(local) == kept and {unit.domains for unit in kept} == {("d",)}
    assert [AskedItems.from_bytes(local.read(unit.key)) for unit in kept] == units
    assert freeze_items(local, units[:1]) == kept[:1] == asked_now(local)
