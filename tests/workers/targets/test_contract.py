"""A specialist trains on the targets that it declares, or not at all."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from workers.targets.contract import Contract
from workers.targets.encoding.schema import StoreHeader

HEADER = StoreHeader(
    "systematic", 21, "answer", "float32", 97, "t" * 64, "c" * 64, 7, {"one": {"model": "m", "fingerprint": "f" * 64}}
)


def test_the_store_that_was_declared_is_taken() -> None:
    Contract.of(HEADER).check(replace(HEADER, draws=5, seed=8), "medical")


@pytest.mark.parametrize(
    "field, other",
    [
        ("tokenizer", "x" * 64),
        ("chat_template", "x" * 64),
        ("scheme", "topk"),
        ("vocabulary", 98),
        ("teachers", {"one": {"model": "m", "fingerprint": "0" * 64}}),
        ("teachers", {"two": {"model": "m", "fingerprint": "f" * 64}}),
        ("teachers", {}),
    ],
)
def test_another_one_is_refused_by_what_differs(field: str, other: Any) -> None:
    found = replace(HEADER, **{field: other})
    with pytest.raises(ValueError, match=f"medical: .* {field} ") as caught:
        Contract.of(HEADER).check(found, "medical")
    others = {"tokenizer", "chat_template", "scheme", "vocabulary", "teachers"} - {field}
    assert not any(f" {name} " in str(caught.value) for name in others)
