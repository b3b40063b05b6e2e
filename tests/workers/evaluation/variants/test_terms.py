"""Swapped terms."""

from __future__ import annotations

import numpy as np
import pytest

from workers.evaluation.variants.terms import checked_terms, replacements, swapped

TERMS = {"he": ["she"], "his": ["her"], "John": ["Mary", "Jane"]}


def test_a_swap_is_of_whole_words_at_once() -> None:
    assert swapped("He, the heir, HE and cache; he's", {"he": "she"}) == "She, the heir, SHE and cache; she's"
    assert swapped("a b ab", {"a": "b", "b": "a"}) == "b a ab"
    assert swapped("New York and York", {"York": "Bath", "New York": "Rome"}) == "Rome and Bath"
    assert swapped("c++ and c", {"c": "rust", "c++": "zig"}) == "zig and rust"


def test_an_alternative_that_is_there_already_is_not_taken() -> None:
    rng = np.random.default_rng(0)
    assert replacements(["John and Mary"], TERMS, rng) == {"John": "Jane"}
    assert replacements(["John, Mary and Jane"], TERMS, rng) == {}


@pytest.mark.parametrize(
    "terms", [{"a": []}, {"a": "b"}, {" ": ["b"]}, {"a": ["A"]}, {"a": ["b"], "b": ["c"]}, {"a": ["x"], "A": ["y"]}]
)
def test_a_table_that_is_not_plain_is_refused(terms: dict) -> None:
    with pytest.raises(ValueError, match="names:"):
        checked_terms(terms, "names")
    assert checked_terms(TERMS, "names") == TERMS
