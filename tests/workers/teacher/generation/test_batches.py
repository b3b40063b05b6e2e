"""Batches of given texts: everything once, little padding, no more tokens than asked."""

from __future__ import annotations

import numpy as np
import pytest

from workers.teacher.engine import TextRequest
from workers.teacher.generation.batches import by_tokens, waiting_order


def texts(lengths: list[int]) -> list[TextRequest]:
    return [TextRequest(f"p{i}", 0, [1] * (n - n // 2), [2] * (n // 2)) for i, n in enumerate(lengths)]


@pytest.mark.parametrize("most", [1, 100, 1000, 10**6])
@pytest.mark.parametrize("spread", [1.1, 3, 100])
def test_padding_is_a_tenth_at_most(most: int, spread: float) -> None:
    lengths = np.random.default_rng(0).integers(10, int(10 * spread) + 1, 200).tolist()
    batches = by_tokens(range(200), texts(lengths), most)
    assert sorted(i for batch in batches for i in batch) == list(range(200))
    for batch in batches:
        room = max(lengths[i] for i in batch) * len(batch)
        assert room <= most or len(batch) == 1
        assert sum(lengths[i] for i in batch) >= 0.9 * room


def test_like_lengths_share_batches() -> None:
    assert by_tokens(range(6), texts([4, 50, 4, 50, 4, 50]), 1000) == [[1, 3, 5], [0, 2, 4]]


def test_no_text_is_no_batch() -> None:
    assert by_tokens([], [], 10) == []


def test_those_that_may_grow_longest_take_slots_first_and_samples_stay_together() -> None:
    def ask(prompt: list[int], new: int) -> TextRequest:
        return TextRequest("p", 0, prompt, None, max_new_tokens=new)

    requests = [ask([1, 2], 5), ask([3], 9), ask([1, 1], 5), ask([1, 2], 5), ask([4], 5)]
    assert waiting_order(range(5), requests) == [1, 4, 2, 0, 3]
