"""Rows of a task's file as items, each right or refused with its reason. No torch."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import replace
from typing import Any

from workers.evaluation.tasks.config import TaskConfig
from workers.evaluation.tasks.items import Marking, TaskItem
from workers.evaluation.variants.edits import variant_uid
from workers.evaluation.variants.templates import TaskTemplate, template_of


def item_of(row: Any, task: str, settings: TaskConfig) -> TaskItem:
    """The item that a row of a file is. Raises ValueError with the reason to reject it."""
    if isinstance(row, ValueError):
        raise row
    if not isinstance(row, dict):
        raise ValueError(f"is {type(row).__name__}, not an object")
    marking = settings.marking or _marking_of(row, settings)
    wanted = {"choice": "choices", "tests": "tests", "format": "prompt"}.get(marking, "answer")
    if row.get(wanted) is None:
        raise ValueError(f"has no {wanted!r}, which marking {marking!r} needs")
    choices = _choices(row["choices"]) if marking == "choice" else ()
    return TaskItem(
        uid=_uid(row),
        task=task,
        domain=_domain(row, settings),
        prompt=_text(row, "prompt"),
        marking=marking,
        choices=choices,
        answer=_answer(row, marking, choices),
        tests=_text(row, "tests") if marking == "tests" else "",
    )


def counterfactual_of(row: dict[str, Any], item: TaskItem) -> TaskItem | None:
    """The same question with other names or terms, to which the same answer is right, where a row has one
    (`counterfactual`). Raises ValueError with the reason to reject the row."""
    if row.get("counterfactual") is None:
        return None
    prompt = _text(row, "counterfactual")
    if prompt == item.prompt:
        raise ValueError("'counterfactual' is the prompt itself")
    return replace(item, uid=variant_uid(item.uid, "names"), prompt=prompt, variant_of=item.uid, edit="names")


def template_row(row: Any, task: str, settings: TaskConfig) -> TaskTemplate | None:
    """The template that a row of a file is; None for one that is a plain item. Raises ValueError with the reason to
    reject it."""
    if not isinstance(row, dict) or "template" not in row:
        return None
    rest = {key: value for key, value in row.items() if key not in ("id", "domain")}
    return template_of(rest, _uid(row), task, _domain(row, settings))


def _marking_of(row: dict[str, Any], settings: TaskConfig) -> Marking:
    """How a row is marked that does not say."""
    if row.get("choices") is not None:
        return "choice"
    if row.get("tests") is not None:
        return "tests"
    if row.get("answer") is not None:
        return "exact"
    if settings.format is not None:
        return "format"
    raise ValueError("has neither 'choices' nor 'answer' nor 'tests'")


def _uid(row: dict[str, Any]) -> str:
    if row.get("id") is not None:
        return str(row["id"])
    return hashlib.sha256(json.dumps(row, sort_keys=True, default=str).encode()).hexdigest()[:16]


def _domain(row: dict[str, Any], settings: TaskConfig) -> str:
    if settings.domain is not None:
        return settings.domain
    if row.get("domain") is None:
        raise ValueError("has no 'domain', and its task names none")
    return _text(row, "domain")


def _text(row: dict[str, Any], key: str) -> str:
    """A text that is not empty, and that UTF-8 can hold."""
    value = row.get(key)
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{key!r} is {'missing' if value is None else 'no text' if value != '' else 'empty'}")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{key!r} is not valid Unicode") from None
    return value


def _choices(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or len(value) < 2:
        raise ValueError("'choices' is not a list of two or more")
    choices = tuple(_text({"choices": choice}, "choices") for choice in value)
    if len({choice.strip() for choice in choices}) < len(choices):
        raise ValueError("'choices' has one twice")
    return choices


def _answer(row: dict[str, Any], marking: Marking, choices: tuple[str, ...]) -> str:
    if marking in ("tests", "format"):
        return ""
    value = row.get("answer")
    if marking == "choice":
        if isinstance(value, int) and not isinstance(value, bool):
            if not 0 <= value < len(choices):
                raise ValueError(f"'answer' is {value}, and its choices are 0 to {len(choices) - 1}")
            return choices[value]
        if value not in choices:
            raise ValueError(f"'answer' is {value!r}, which is neither one of its choices nor an index of one")
        return str(value)
    if isinstance(value, int | float) and not isinstance(value, bool):
        value = json.dumps(value)
    answer = _text({"answer": value}, "answer")
    if marking == "regex":
        try:
            re.compile(answer)
        except (re.error, OverflowError, RecursionError) as error:
            raise ValueError(f"'answer' is no regular expression ({error})") from None
    return answer
