"""Templates of this package's `templates/`, filled in. Jinja2 is imported when the first one is."""

from __future__ import annotations

import html
import re
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinja2 import Environment


def filled(template: str, **values: Any) -> str:
    """A template's text. What it names and is not given is an error."""
    return _environment().get_template(template).render(**values)


def formatted(value: float, how: str) -> str:
    """As `format` does; what rounds to zero has no minus."""
    return format(value, re.sub(r"^(\+?)(?=.*[f%]$)", r"\1z", how))


def one_line(text: str) -> str:
    """Text that stays in its item of a list: without line breaks."""
    return " ".join(text.split())


def table_cell(text: str) -> str:
    """Text that stays in its cell. A backslash before the bar would depend on the backslashes before it."""
    return one_line(text).replace("|", "&#124;")


def token_cell(text: str) -> str:
    """Text of tokens that stays in its cell and is shown as it is, whatever marks of Markdown or HTML it has."""
    return "".join(c if c.isalnum() or c in " ␣.,:;!?'-" else f"&#{ord(c)};" for c in one_line(text))


def with_code(text: str) -> str:
    """HTML of a sentence in which settings stand between backticks."""
    parts = [html.escape(part) for part in text.split("`")]
    if len(parts) % 2 == 0:  # a backtick that nothing closes
        return html.escape(text)
    return "".join(f"<code>{part}</code>" if i % 2 else part for i, part in enumerate(parts))


@cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    made = Environment(
        loader=PackageLoader(__package__),
        undefined=StrictUndefined,
        # In Markdown what could break it goes through `line`, `cell` or `token`.
        autoescape=lambda name: name is not None and name.endswith(".html.j2"),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    made.filters |= {"fmt": formatted, "line": one_line, "cell": table_cell, "token": token_cell, "code": with_code}
    return made
