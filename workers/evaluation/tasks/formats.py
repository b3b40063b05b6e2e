"""What a text must look like, whether or not what it says is right. No torch."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from workers.evaluation.tasks.sandbox import full_matches, valid_json


@dataclass(frozen=True)
class TextFormat:
    """A regular expression that matches all of a text, or a schema that it follows as JSON; one of both."""

    regex: str | None = None
    json_schema: dict[str, Any] | None = None


def follows(texts: Sequence[str], form: TextFormat) -> list[bool]:
    """Whether each text has a format; white space around it does not count."""
    texts = [text.strip() for text in texts]
    if form.json_schema is not None:
        return valid_json(texts, form.json_schema)
    return full_matches([(form.regex or "", text) for text in texts])


def check_regex(pattern: str) -> None:
    """Raise ValueError for what is no regular expression."""
    try:
        re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"is no regular expression ({error}); write one as Python's re has it") from None


def check_schema(schema: Any) -> None:
    """Raise ValueError for what is no JSON schema, and for one that leans upon another document: nothing is fetched."""
    from jsonschema.exceptions import SchemaError
    from jsonschema.validators import validator_for

    try:
        schema = json.loads(json.dumps(schema))
    except (TypeError, ValueError) as error:
        raise ValueError(f"is not JSON ({error}); quote what YAML takes for a date") from None
    if not isinstance(schema, dict):
        raise ValueError(f"is {type(schema).__name__}, not a JSON schema; give an object such as {{type: object}}")
    if (dialect := schema.get("$schema")) is not None and validator_for(schema, default=None) is None:
        raise ValueError(f"has the unknown $schema {dialect!r}; take https://json-schema.org/draft/2020-12/schema")
    try:
        validator_for(schema).check_schema(schema)
    except SchemaError as error:
        where = "/".join(map(str, error.absolute_path))
        raise ValueError(f"is no JSON schema ({error.message}{f' at {where}' if where else ''})") from None
    _check_references(schema)


def _check_references(schema: dict[str, Any]) -> None:
    from jsonschema.validators import validator_for
    from referencing import Registry
    from referencing.exceptions import Unresolvable
    from referencing.jsonschema import specification_with

    dialect = validator_for(schema).META_SCHEMA
    resource = specification_with(dialect.get("$id", dialect.get("id"))).create_resource(schema)
    name = resource.id() or ""
    resolver = Registry().with_resource(name, resource).crawl().resolver(name)
    for reference in _references(schema):
        try:
            resolver.lookup(reference)
        except Unresolvable:
            raise ValueError(
                f"refers to {reference!r}, which is not in it; write what is meant below $defs, and refer to it as "
                "'#/$defs/NAME'"
            ) from None


def _references(value: Any) -> Iterator[str]:
    """All that a schema refers to."""
    if isinstance(value, dict):
        yield from (v for k, v in value.items() if k in ("$ref", "$dynamicRef") and isinstance(v, str))
    if isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _references(inner)
