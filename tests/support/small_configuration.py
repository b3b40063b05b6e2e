"""The smallest configuration, one of two specialists, and changes to them."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from orchestrator.config.loading import validate
from orchestrator.config.schema import RunConfig

SMALL: dict[str, Any] = {
    "name": "clinic",
    "teacher": {"model": "acme/teacher"},
    "prompts": {"medical": "data/medical.jsonl"},
    "specialists": {"medical": {"model": "acme/student"}},
}


def small(**changes: Any) -> dict[str, Any]:
    return copy.deepcopy(SMALL) | changes


def put(where: str, value: Any) -> dict[str, Any]:
    """The small configuration with `a.b.c` changed."""
    data = small()
    *parents, last = where.split(".")
    place = data
    for key in parents:
        if isinstance(place.get(key), str):
            place[key] = {"path" if "prompts" in parents else "base": place[key]}
        place = place.setdefault(key, {})
    place[last] = value
    return data


def refused(data: dict[str, Any]) -> str:
    with pytest.raises(ValueError) as caught:
        validate(data)
    return str(caught.value)


def clinic(**changes: Any) -> RunConfig:
    """A run of two specialists, one with a mix, and changes at its top level."""
    return validate(
        {
            "name": "clinic",
            "teacher": {"model": "acme/teacher", "ep_size": 2},
            "prompts": {"medical": "m.jsonl", "legal": "l.jsonl"},
            "defaults": {"model": "acme/student"},
            "specialists": {"medical": {"mix": {"medical": 3, "legal": 1}}, "legal": {}},
        }
        | changes
    )
