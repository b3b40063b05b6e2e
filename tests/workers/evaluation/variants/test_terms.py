"""Swapped terms and pairs of prompts."""

from __future__ import annotations

import numpy as np
import pytest

from workers.evaluation.tasks.items import TaskItem
from workers.evaluation.variants.terms import (
    checked_terms,
    counterfactual_pairs,
    pairs_of_rows,
    replacements,
    swapped,
)

TERMS = {"he": ["she"], "his": ["her"], "John": ["Mary", "Jane"]}


def item(uid: str, prompt: str, answer: str = "") -> TaskItem:
    return TaskItem(uid, "t", "d", prompt, "exact", answer=answer)


def test_a_swap_is_of_whole_words_at_once() -> None:
    assert swapped("He, the heir, HE and cache; he's", {"he": "she"}) == "She, the heir, SHE and cache; she's"
    assert swapped("a b ab", {"a": "b", "b": "a"}) == "b a ab"
    assert swapped("New York and York", {"York": "Bath", "New York": "Rome"}) == "Rome and Bath"
    assert swapped("c++ and c", {"c": "rust", "c++": "zig"}) == "zig and rust"


def test_an_alternative_that_is_there_already_is_not_taken() -> None:
    rng = np.random.default_rng(0)
    assert replacements(["John and Mary"], TERMS, rng) == {"John": "Jane"}
    assert replacements(["John, Mary and Jane"], TERMS, rng) == {}


def test_pairs_have_the_tables_terms_on_side_a() -> None:
    found = counterfactual_pairs(
        [
            item("1", "John says he is late."),
            item("2", "Did she sleep?", "yes"),
            item("3", "he or she"),
            item("4", "nobody"),
            item("5", "What did he say?", "he slept"),
        ],
        TERMS,
        0,
    )
    (first, second) = found.pairs
    assert first.a == "John says he is late." and first.b in ("Mary says she is late.", "Jane says she is late.")
    assert (second.a, second.b, second.answer) == ("Did he sleep?", "Did she sleep?", "yes")
    assert [uid for uid, _ in found.rejected] == ["3", "4", "5"]


def test_pairs_of_a_file_are_checked_one_by_one() -> None:
    good = {"a": "x", "b": "y", "id": "p"}
    found = pairs_of_rows([good, good, {"a": "x"}, {"a": "x", "b": "x"}, good | {"c": 1}, {"a": "1", "b": "2"}], "law")
    assert [(p.uid, p.domain) for p in found.pairs] == [("p", "law"), ("pair-6", "law")]
    assert [uid for uid, _ in found.rejected] == ["p", "pair-3", "pair-4", "p"]


@pytest.mark.parametrize(
    "terms", [{"a": []}, {"a": "b"}, {" ": ["b"]}, {"a": ["A"]}, {"a": ["b"], "b": ["c"]}, {"a": ["x"], "A": ["y"]}]
)
def test_a_table_that_is_not_plain_is_refused(terms: dict) -> None:
    with pytest.raises(ValueError, match="names:"):
        checked_terms(terms, "names")
    assert checked_terms(TERMS, "names") == TERMS
