"""Which columns of a row are the question and which the answer: the formats of FORMATS.md, recognised by their names.

A row becomes an `Asked`: text to be continued, or messages to be answered, and the answer where one is given. A name
set by a `*_field` is read whatever else is there; two readings of one row that say different things are refused.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from orchestrator.config.schema import PromptSource
from orchestrator.prompts.reading.messages import (
    Message,
    assistant,
    normal_messages,
    normal_tools,
    split_answer,
    user,
)

TABLE = "orchestrator/prompts/FORMATS.md"

_QUESTIONS = ("messages", "conversations", "prompt", "instruction", "question", "text")
"""Columns that hold what is asked, the most structured first."""

_INPUTS = {"instruction": ("input", "context")}
"""What stands below the question, by its column (Alpaca, Dolly)."""

_ANSWERS = ("answer", "completion", "response", "output")
_SYSTEM = ("system", "system_prompt")

ABOUT = ("id", "domain", "split")
"""Columns about a row, which are read whatever its format."""


class AmbiguousSource(ValueError):
    """Columns that can be read in two ways: the source is refused, not a row."""


@dataclass(frozen=True)
class Asked:
    """What a row asks, in the one form. Exactly one of `prompt` and `messages` is given."""

    prompt: str | None = None
    """Text to be continued; "" where all of the text is given, and `answer` is it."""
    messages: tuple[Message, ...] | None = None
    answer: str | Message | None = None
    """Text, or the assistant's turn."""
    tools: tuple[dict[str, Any], ...] | None = None
    columns: tuple[str, ...] = ()
    """Those that were read."""
    content: tuple[Any, ...] = field(default=(), compare=False)
    """What its id is made of where the row has none: prompt, messages and answer as they were written."""


class RowReader:
    """Reads the rows of one source."""

    def __init__(self, source: PromptSource) -> None:
        self._source = source
        own = {"messages": source.messages_field, "prompt": source.prompt_field, "text": source.text_field}
        self._own = {kind: name for kind, name in own.items() if name is not None}
        """Kinds of questions whose column the source names; then no others are looked for."""

    def read(self, row: dict[str, Any]) -> Asked:
        """What a row asks. Raises ValueError with the reason to reject it; AmbiguousSource."""
        found = [asked for kind, column in self._questions(row) if (asked := self._as(kind, column, row)) is not None]
        if not found:
            raise ValueError(self._nothing(row))
        asked = found[0]
        for other in found[1:]:
            if not (_holds(asked, other) or _holds(other, asked)):
                one, two = asked.columns[0], other.columns[0]
                fields = [f"{_FIELD_OF.get(column, 'prompt_field')}: {column}" for column in (one, two)]
                raise AmbiguousSource(
                    f"rows can be read as {_kind(asked)} ({one!r}) and as {_kind(other)} ({two!r}), which differ; say "
                    f"which by {' or '.join(fields)}"
                )
        return self._answered(asked)

    def _questions(self, row: dict[str, Any]) -> list[tuple[str, str]]:
        """Kinds and columns of the questions that a row has."""
        pairs = self._own.items() if self._own else ((kind, kind) for kind in _QUESTIONS)
        return [(kind, column) for kind, column in pairs if row.get(column) is not None]

    def _as(self, kind: str, column: str, row: dict[str, Any]) -> Asked | None:
        if kind in ("messages", "conversations") or (kind == "prompt" and isinstance(row[column], list)):
            return self._chat(column, row)
        value = row[column]
        if not isinstance(value, str):
            raise ValueError(f"{column!r} is {type(value).__name__}, not text")
        if not value.strip():
            raise ValueError(f"{column!r} is empty")
        if kind == "text":
            return self._whole_text(column, value)
        return self._question(kind, column, row)

    def _chat(self, column: str, row: dict[str, Any]) -> Asked:
        try:
            messages = normal_messages(row[column])
        except ValueError as error:
            raise ValueError(f"{column!r} {error}") from None
        system, columns = self._system(row)
        if system is not None and messages[0]["role"] not in ("system", "developer"):
            messages = [{"role": "system", "content": system}, *messages]
        elif system is not None and messages[0]["content"] != system:
            raise ValueError(f"{columns[0]!r} and the system turn of {column!r} differ")
        answer, turns, read = self._answer(row)
        messages += turns
        try:
            before, last = split_answer(messages)
        except ValueError as error:
            raise ValueError(f"{column!r} {error}") from None
        if answer is not None and last is not None and last["content"].strip() != answer.strip():
            raise AmbiguousSource(
                f"the given answer of a row can be the last turn of {column!r} or the column {read[0]!r}, which "
                f"differ; say answer_field: '' for the turn, or leave it out of {column!r}"
            )
        given = last if last is not None else None if answer is None else assistant(answer)
        tools, tool_columns = self._tools(row)
        content = (None, messages, answer)
        return Asked(
            messages=tuple(before),
            answer=given,
            tools=tools,
            columns=(column, *columns, *read, *tool_columns),
            content=content,
        )

    def _question(self, kind: str, column: str, row: dict[str, Any]) -> Asked:
        """A question of text: to be continued, or a user's message."""
        text, columns = row[column], [column]
        names = (self._source.input_field,) if self._source.input_field else _INPUTS.get(kind, ())
        for name in names:
            if isinstance(row.get(name), str) and row[name].strip():
                text += "\n\n" + row[name]
                columns.append(name)
        answer, turns, read = self._answer(row)
        system, system_columns = self._system(row)
        tools, tool_columns = self._tools(row)
        chat = self._source.chat if self._source.chat is not None else kind in ("instruction", "question")
        content = (text, turns or None, answer)
        columns += [*system_columns, *read, *tool_columns]
        if not (chat or turns):
            if system is not None or tools is not None:
                what = system_columns[0] if system is not None else tool_columns[0]
                raise ValueError(f"has {what!r}, which has no place before text to be continued; say chat: true")
            return Asked(prompt=text, answer=answer, columns=tuple(columns), content=content)
        messages = [{"role": "system", "content": system}] if system is not None else []
        before, last = split_answer([*messages, user(text), *turns])
        given = last if last is not None else None if answer is None else assistant(answer)
        return Asked(messages=tuple(before), answer=given, tools=tools, columns=tuple(columns), content=content)

    def _whole_text(self, column: str, text: str) -> Asked:
        if self._source.chat:
            raise ValueError(f"{column!r} is a given text, not a user's message; for that say prompt_field: {column}")
        return Asked(prompt="", answer=text, columns=(column,), content=(None, None, text))

    def _answer(self, row: dict[str, Any]) -> tuple[str | None, list[Message], list[str]]:
        """The given answer of a row, as text or as the turns of a completion, and its column."""
        own = self._source.answer_field
        names = _ANSWERS if own is None else (own,) if own else ()
        filled = [name for name in names if row.get(name) not in (None, "")]
        for other in filled[1:]:
            if row[other] != row[filled[0]]:
                raise AmbiguousSource(
                    f"the given answer of a row can be {filled[0]!r} or {other!r}, which differ; say which by "
                    f"answer_field: {filled[0]} or answer_field: {other}"
                )
        if not filled:
            return None, [], []
        name, value = filled[0], row[filled[0]]
        if isinstance(value, list):
            try:
                turns = normal_messages(value)
            except ValueError as error:
                raise ValueError(f"{name!r} {error}") from None
            if turns[-1]["role"] != "assistant":
                raise ValueError(f"{name!r} does not end with an assistant's turn")
            return None, turns, [name]
        if not isinstance(value, str):
            raise ValueError(f"{name!r} is {type(value).__name__}, not text")
        return value, [], [name]

    def _system(self, row: dict[str, Any]) -> tuple[str | None, list[str]]:
        own = self._source.system_field
        for name in _SYSTEM if own is None else (own,) if own else ():
            if (value := row.get(name)) not in (None, ""):
                if not isinstance(value, str):
                    raise ValueError(f"{name!r} is {type(value).__name__}, not text")
                return value, [name]
        return None, []

    def _tools(self, row: dict[str, Any]) -> tuple[tuple[dict[str, Any], ...] | None, list[str]]:
        name = "tools" if self._source.tools_field is None else self._source.tools_field
        try:
            tools = normal_tools(row.get(name)) if name else None
        except ValueError as error:
            raise ValueError(f"{name!r} {error}") from None
        return (tuple(tools), [name]) if tools else (None, [])

    def _answered(self, asked: Asked) -> Asked:
        """The row as `answers` wants it: with its given answer, or for the teacher to answer."""
        if asked.answer is None and self._source.answers == "given":
            raise ValueError("has no given answer, and answers is given")
        if asked.answer is None or self._source.answers != "sampled":
            return asked
        if asked.prompt == "":
            return replace(asked, prompt=str(asked.answer), answer=None)
        return replace(asked, answer=None)

    def _nothing(self, row: dict[str, Any]) -> str:
        if self._own:
            return "has neither " + " nor ".join(map(repr, self._own.values()))
        known = [name for name in row if name not in ABOUT and row[name] is not None][:8]
        return f"has none of the columns {', '.join(_QUESTIONS)}, but {', '.join(map(repr, known)) or 'nothing'}"


_FIELD_OF = {"messages": "messages_field", "conversations": "messages_field", "text": "text_field"}


def _kind(asked: Asked) -> str:
    return "chat messages" if asked.messages is not None else "a given text" if asked.prompt == "" else "text"


def _texts(asked: Asked) -> list[str]:
    """All texts of a row, as far as two readings of it can share them."""
    answer = asked.answer if isinstance(asked.answer, str) else (asked.answer or {}).get("content", "")
    parts = [asked.prompt or "", answer, *(m["content"] for m in asked.messages or ())]
    return [part.strip() for text in parts for part in text.split("\n\n") if part.strip()]


def _holds(one: Asked, other: Asked) -> bool:
    """Whether one reading says all that the other does: UltraChat's `prompt` is the first of its `messages`, and
    Alpaca's `text` is its other columns in a template."""
    whole = "\n".join(_texts(one))
    return all(text in whole for text in _texts(other))
