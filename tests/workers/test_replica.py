"""What a replica asks of its gang for a unit, and what it takes out of the answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from workers.targets.arrays import UnitTargets
from workers.targets.schema import StoreHeader
from workers.teacher.unit_teacher import drop_withheld, requests_for
from workers.units import Prompt


def prompt(name: str, *domains: str, **fields: Any) -> Prompt:
    asked: dict[str, Any] = {
        "teacher": "t",
        "samples": 3,
        "temperature": 0.7,
        "top_p": 0.9,
        "max_new_tokens": 8,
        "prompt_ids": [3, 4],
        "answer_ids": None,
    }
    return Prompt(name, domains, **(asked | fields))


def test_a_text_is_asked_for_each_sample_and_once_for_a_given_answer() -> None:
    requests = requests_for([prompt("a", "x"), prompt("b", "x", answer_ids=[5, 6])])
    assert [(r.prompt_id, r.sample) for r in requests] == [("a", 0), ("a", 1), ("a", 2), ("b", 0)]
    assert requests[3].answer_ids == [5, 6] and requests[0].answer_ids is None
    assert (requests[0].temperature, requests[0].top_p, requests[0].max_new_tokens) == (0.7, 0.9, 8)


def test_texts_with_a_withheld_word_are_set_aside(
    make_header: Callable[..., StoreHeader], make_targets: Callable[..., UnitTargets]
) -> None:
    prompts = [prompt("a", "medical"), prompt("b", "medical", "legal"), prompt("c", "legal"), prompt("d", "medical")]
    targets = make_targets(make_header(), np.random.default_rng(0), ["a", "b", "c", "d"])
    targets.texts = ["eat broccoli", "broccoli law", "broccoli and nothing else", "eat carrots"]
    kept, set_aside = drop_withheld(targets, prompts, {"medical": ["London", "broccoli"]})
    assert kept.prompt_ids == ["c", "d"] and kept.texts == targets.texts[2:]
    assert [s["id"] for s in set_aside] == ["a", "b"]
    assert all("'broccoli'" in s["reason"] for s in set_aside)
    assert [s["sample"] for s in set_aside] == targets.samples[:2].tolist()
    assert kept.content_hash() == targets.select(np.array([2, 3])).content_hash()


def test_nothing_withheld_changes_nothing(
    make_header: Callable[..., StoreHeader], make_targets: Callable[..., UnitTargets]
) -> None:
    targets = make_targets(make_header(), np.random.default_rng(0), ["a", "b"])
    kept, set_aside = drop_withheld(targets, [prompt("a", "x"), prompt("b", "x")], {"x": ["absent"], "y": ["text"]})
    assert set_aside == [] and kept.content_hash() == targets.content_hash()


def test_a_unit_of_nothing_but_withheld_texts_is_empty(
    make_header: Callable[..., StoreHeader], make_targets: Callable[..., UnitTargets]
) -> None:
    targets = make_targets(make_header(), np.random.default_rng(0), ["a", "b"])
    kept, set_aside = drop_withheld(targets, [prompt("a", "x"), prompt("b", "x")], {"x": ["text"]})
    assert kept.rows == 0 and len(set_aside) == 2
