"""What a replica asks of its worker group for a unit."""

from __future__ import annotations

from typing import Any

from workers.teacher.units.unit_runner import requests_for
from workers.units import Prompt


def prompt(name: str, *domains: str, **fields: Any) -> Prompt:
    asked: dict[str, Any] = {
        "teacher": "t",
        "samples": 3,
        "temperature": 0.7,
        "top_p": 0.9,
        "max_new_tokens": 8,
        "prompt_token_ids": [3, 4],
        "answer_token_ids": None,
    }
    return Prompt(name, domains, **(asked | fields))


def test_a_text_is_asked_for_each_sample_and_once_for_a_given_answer() -> None:
    requests = requests_for([prompt("a", "x"), prompt("b", "x", answer_token_ids=[5, 6])])
    assert [(r.prompt_uid, r.sample) for r in requests] == [("a", 0), ("a", 1), ("a", 2), ("b", 0)]
    assert requests[3].answer_token_ids == [5, 6] and requests[0].answer_token_ids is None
    assert (requests[0].temperature, requests[0].top_p, requests[0].max_new_tokens) == (0.7, 0.9, 8)


def test_a_request_says_what_ends_its_answer() -> None:
    [request] = requests_for([prompt("a", "x", samples=1, min_new_tokens=3, stop=("\n\n", "END"))])
    assert (request.min_new_tokens, request.stop) == (3, ("\n\n", "END"))
