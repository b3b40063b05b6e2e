"""Formats of what models write: what has one, what is refused, and that no text stops the marking of others."""

from __future__ import annotations

import json
from typing import Any

import pytest

from workers.evaluation.tasks.asked import AskedItems, TokenizedItem
from workers.evaluation.tasks.config import FormatConfig, TaskConfig
from workers.evaluation.tasks.formats import TextFormat, check_regex, check_schema, follows
from workers.evaluation.tasks.items import TaskItem
from workers.evaluation.tasks.marking import mark_texts
from workers.evaluation.tasks.rows import item_of
from workers.evaluation.tasks.sandbox import valid_json

DOSE = {
    "type": "object",
    "properties": {"dose": {"$ref": "#/$defs/positive"}, "unit": {"enum": ["mg", "ml"]}},
    "required": ["dose"],
    "additionalProperties": False,
    "$defs": {"positive": {"type": "number", "exclusiveMinimum": 0}},
}


def test_a_text_is_json_that_follows_the_schema_and_nothing_else() -> None:
    texts = {
        ' {"dose": 2.5, "unit": "mg"}\n': True,
        '{"dose": 0}': False,
        '{"unit": "mg"}': False,
        '{"dose": 1, "more": 2}': False,
        'Here: {"dose": 1}': False,
        '```json\n{"dose": 1}\n```': False,
        '{"dose": NaN}': False,
        '{"dose": Infinity}': False,
        "": False,
        "[" * 100_000: False,
        '{"dose": ' + "9" * 100_000 + "}": False,
    }
    assert follows(list(texts), TextFormat(json_schema=DOSE)) == list(texts.values())


def test_a_pattern_has_to_match_all_of_a_text() -> None:
    form = TextFormat(regex=r"The answer is \d+\.")
    assert follows(["The answer is 42.\n", "The answer is 42. Or 43.", "42"], form) == [True, False, False]


def test_a_schema_whose_pattern_never_ends_is_not_followed_and_stops_nothing() -> None:
    endless = {"type": "string", "pattern": "^(a+)+b$"}
    assert valid_json(['"ab"', f'"{"a" * 200}"', '"aab"'], endless, seconds=0.2) == [True, False, True]
    assert valid_json([], endless) == []


@pytest.mark.parametrize(
    ("schema", "why"),
    [
        ({"type": "nonsense"}, "is no JSON schema .*at type"),
        ({"properties": {"a": {"pattern": "("}}}, "is no JSON schema"),
        ({"$ref": "#/$defs/none"}, "refers to '#/.defs/none', which is not in it"),
        ({"$ref": "http://localhost:1/other.json"}, "refers to 'http:.*', which is not in it"),
        ({"$schema": "http://localhost:1/own"}, "unknown .schema"),
        (["type"], "is list, not a JSON schema"),
        ({"const": {1, 2}}, "is not JSON"),
    ],
)
def test_what_is_no_schema_is_refused(schema: Any, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        check_schema(schema)


@pytest.mark.parametrize(
    "dialect", ["https://json-schema.org/draft/2020-12/schema", "http://json-schema.org/draft-07/schema#"]
)
def test_schemas_that_refer_to_what_is_in_them_are_taken(dialect: str) -> None:
    check_schema(DOSE | {"$schema": dialect})
    check_schema({"$schema": dialect, "$id": "https://here/one", "items": {"$ref": "#"}})
    form = FormatConfig(json_schema={"$schema": dialect, "type": "array", "items": {"type": "integer"}})
    assert isinstance(form.json_schema, dict)
    assert follows(["[1, 2]", "[1, 2.5]"], TextFormat(json_schema=form.json_schema)) == [True, False]


def test_what_is_no_pattern_is_refused() -> None:
    with pytest.raises(ValueError, match="is no regular expression"):
        check_regex("(")


ROW = {"prompt": "p", "domain": "d"}
PATTERN = FormatConfig(regex="a+")


def test_a_row_without_an_answer_is_marked_by_the_format() -> None:
    settings = TaskConfig(path="x.jsonl", format=PATTERN)
    assert item_of(ROW, "t", settings).marking == "format"
    assert item_of(ROW | {"answer": "aa"}, "t", settings).marking == "exact"
    assert item_of(ROW | {"answer": "aa"}, "t", settings.model_copy(update={"marking": "format"})).marking == "format"


def test_right_and_of_the_format_are_two_things() -> None:
    exact, alone = TaskItem("e", "t", "d", "p", "exact", answer="aa"), TaskItem("f", "t", "d", "p", "format")
    items, texts = [exact, exact, exact, alone, alone], ["aa", "a", "b", "aaa", "c"]
    answers = mark_texts(items, [(text, -1.0) for text in texts], TextFormat(regex="a+"))
    assert [a.correct for a in answers] == [True, False, False, True, False]
    assert [a.follows_format for a in answers] == [True, True, False, True, False]
    assert [a.follows_format for a in mark_texts([exact], [("aa", -1.0)])] == [None]


def test_a_format_is_kept_with_the_items_and_leaves_no_trace_where_there_is_none() -> None:
    item = TokenizedItem(TaskItem("f", "t", "d", "p", "format"), (1, 2))
    for form in (TextFormat(regex="a+"), TextFormat(json_schema=DOSE)):
        asked = AskedItems((item,), format=form)
        assert AskedItems.from_bytes(asked.to_bytes()) == asked
    assert "format" not in json.loads(AskedItems((item,)).to_bytes()), "files have the names of earlier versions"
