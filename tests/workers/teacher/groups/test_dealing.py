"""Texts are dealt to ranks so that all get equal work, the same on every machine."""

from __future__ import annotations

import numpy as np
import pytest

from workers.teacher.engine import TextRequest
from workers.teacher.groups.dealing import deal


def scored(name: str, length: int, sample: int = 0) -> TextRequest:
    return TextRequest(name, sample, [0] * (length // 2), [0] * (length - length // 2))


def asked(name: str, length: int, new: int, sample: int = 0) -> TextRequest:
    return TextRequest(name, sample, [0] * length, None, max_new_tokens=new)


def work(requests: list[TextRequest], share: list[int]) -> int:
    return sum(len(requests[i].prompt_token_ids) + len(requests[i].answer_token_ids or ()) for i in share)


@pytest.mark.parametrize("ranks", [1, 2, 3, 8])
def test_every_text_goes_to_one_rank_and_the_work_is_equal(ranks: int) -> None:
    lengths = np.random.default_rng(ranks).integers(16, 512, 64)
    requests = [scored(f"p{i}", int(n)) for i, n in enumerate(lengths)]
    shares = deal(requests, ranks)
    assert sorted(i for s in shares for i in s) == list(range(64))
    amounts = [work(requests, s) for s in shares]
    assert max(amounts) - min(amounts) <= max(lengths) and max(amounts) <= 1.1 * sum(amounts) / ranks
    assert shares == deal(requests, ranks)


def test_the_longest_texts_do_not_meet() -> None:
    requests = [scored("a", 100), scored("b", 90), scored("c", 10), scored("d", 10)]
    assert deal(requests, 2) == [[0], [1, 2]] or deal(requests, 2) == [[0, 3], [1, 2]]


def test_new_tokens_count_as_work() -> None:
    requests = [asked("a", 2, 100), scored("b", 52), scored("c", 50)]
    assert deal(requests, 2) == [[0], [1, 2]]


def test_samples_of_a_prompt_stay_together() -> None:
    requests = [asked(f"p{i}", 8, 8, sample) for i in range(6) for sample in range(4)]
    for share in deal(requests, 3):
        names = [requests[i].prompt_uid for i in share]
        assert all(names.count(n) == 4 for n in names)


def test_samples_of_one_prompt_are_parted_rather_than_leave_ranks_idle() -> None:
    requests = [asked("p", 8, 8, sample) for sample in range(8)]
    assert [len(s) for s in deal(requests, 4)] == [2, 2, 2, 2]


def test_fewer_texts_than_ranks_leave_ranks_without_any() -> None:
    assert deal([scored("a", 9)], 3) == [[0], [], []]
    assert deal([], 2) == [[], []]
