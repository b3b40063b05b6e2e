"""Templates of YAML in which every value is written so that it stays one value, whatever it holds."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from jinja2 import Environment

_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_./-]*")
"""Strings that no reader of YAML takes for anything else, but for these words."""

_ADDRESS = re.compile(rf"{_PLAIN.pattern}(?::[A-Za-z0-9_./-]+)+")
"""The same, outside of lists and mappings in one line."""

_WORDS = {"y", "yes", "n", "no", "true", "false", "on", "off", "null", "none"}


class Written(str):
    """Text that is put into a template as it stands."""


def filled(template: str, **values: Any) -> str:
    """A template's text. What it names and is not given is an error; every `{{ value }}` is a scalar, a list or a
    mapping of YAML in one line."""
    return _environment().get_template(template).render(**values)


def scalar(value: Any) -> str:
    """A value of YAML in one line, as YAML 1.1 and 1.2 both read it."""
    if isinstance(value, Written):
        return value
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_inner(k)}: {_inner(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_inner, value)) + "]"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return str(value)
    assert isinstance(value, str), f"{value!r} is nothing that a manifest holds"
    if (_PLAIN.fullmatch(value) and value.lower() not in _WORDS) or _ADDRESS.fullmatch(value):
        return value
    return _quoted(value)


def _inner(value: Any) -> str:
    """A value inside of another one in the same line."""
    return _quoted(value) if isinstance(value, str) and _ADDRESS.fullmatch(value) else scalar(value)


def _quoted(value: str) -> str:
    return yaml.safe_dump(value, default_style='"', width=math.inf, allow_unicode=False).removesuffix("\n")


def comment(text: str) -> Written:
    """Text that stays in its comment: printable, in one line."""
    return Written("".join(c if c.isprintable() else " " for c in text))


def text_value(text: str, spaces: int) -> Written:
    """A text of several lines: as it is, indented so far, where YAML gives it back to the letter; else quoted."""
    plain = text.endswith("\n") and not text.endswith("\n\n") and not text.startswith((" ", "\n"))
    if not (plain and all(c == "\n" or (c.isprintable() and c.isascii()) for c in text)):
        return Written(_quoted(text))
    lines = text.removesuffix("\n").split("\n")
    return Written("|\n" + "\n".join(" " * spaces + line if line else "" for line in lines))


@cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    made = Environment(
        loader=PackageLoader(__package__),
        undefined=StrictUndefined,
        finalize=scalar,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # `finalize` takes its place
    )
    made.filters |= {"comment": comment, "value": text_value}
    return made
