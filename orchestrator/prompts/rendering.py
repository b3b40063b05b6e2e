"""Conversations as a teacher's chat template writes them, and proof that it wrote all that was given.

The given answer of a chat is what the template writes behind the opening of the assistant's turn: the conversation is
written with and without it. A template that leaves out, moves or rewrites a part of what it was given is found by
looking for each part in what it wrote.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from orchestrator.prompts.reading.messages import REASONING, Message
from workers.chat_template import Writer

_THINK, _THOUGHT = "<think>", "</think>"
_PROBE = "stillhouse0probe"

_VERBATIM = "set answer_format: verbatim to write it as it stands"


class ChatWriter:
    """Writes conversations with one chat template."""

    def __init__(self, write: Writer) -> None:
        self._template = write
        self._parts = not self._takes(_PROBE) and self._takes([{"type": "text", "text": _PROBE}])
        """Whether the template wants content in parts, as those of models that see do."""

    def prompt(self, messages: list[Message], tools: Sequence[Any] | None, settings: dict[str, Any]) -> str:
        """A conversation with the assistant's turn opened. Raises ValueError with the reason to reject it."""
        text = self._write(messages, tools, settings, opened=True)
        for tool in tools or ():
            if not _occurs(tool["function"]["name"], text):
                raise ValueError("has tools, which the teacher's chat template leaves out")
        for turn, message in enumerate(messages, 1):
            if any(not _occurs(part, text) for part in _parts_of_context(message)):
                raise ValueError(
                    f"chat messages that the template leaves out or rewrites: turn {turn} ({message['role']})"
                )
        return text

    def answer(
        self,
        prompt: str,
        messages: list[Message],
        answer: Message,
        tools: Sequence[Any] | None,
        settings: dict[str, Any],
    ) -> str:
        """A given answer as the template writes it behind `prompt`, its end included. Raises ValueError with the
        reason to reject it."""
        whole = self._write([*messages, answer], tools, settings, opened=False)
        begins = whole.startswith(prompt)
        text = whole[len(prompt) :] if begins else whole
        for what, part in _parts_of_answer(answer):
            if not _occurs(part, text):
                raise ValueError(f"a given answer: the chat template leaves out or rewrites {what}; {_VERBATIM}")
        if not begins:
            raise ValueError(
                "a given answer: the chat template opens its turn otherwise than that of an answer to come; "
                f"{_VERBATIM}, or change chat_template_kwargs"
            )
        return text

    def _write(
        self, messages: list[Message], tools: Sequence[Any] | None, settings: dict[str, Any], *, opened: bool
    ) -> str:
        if self._parts:
            messages = [{**m, "content": [{"type": "text", "text": m["content"]}]} for m in messages]
        given: dict[str, Any] = {"tools": list(tools) if tools else None, "add_generation_prompt": opened, **settings}
        try:
            return self._template(messages, **given)
        except ValueError:
            if not any(m.get("tool_calls") for m in messages):
                raise
            try:  # some templates put the arguments together as text
                return self._template([_with_text_arguments(m) for m in messages], **given)
            except ValueError:
                pass
            raise

    def _takes(self, content: Any) -> bool:
        try:
            return _PROBE in self._template([{"role": "user", "content": content}], add_generation_prompt=True)
        except ValueError:
            return False


def verbatim(prompt: str, answer: Message) -> str:
    """A given answer as it stands, to be written behind `prompt`, without its end. Raises ValueError.

    An opening `<think>` that the prompt ends with is not written twice.
    """
    if answer.get("tool_calls"):
        raise ValueError("a given answer that calls tools, which answer_format: verbatim cannot write; set template")
    text, reasoning = answer["content"], _reasoning(answer)
    if reasoning and _THOUGHT not in text:
        text = f"{_THINK}\n{reasoning}\n{_THOUGHT}\n\n{text}"
    if not prompt.rstrip().endswith(_THINK):
        return text
    if _THOUGHT not in text:
        raise ValueError(
            f"a given answer without reasoning, and the chat template opens its turn with {_THINK}; give the "
            "reasoning, or change chat_template_kwargs"
        )
    return text.lstrip().removeprefix(_THINK).lstrip("\n")


def _parts_of_context(message: Message) -> Iterator[str]:
    """Texts of a turn that must be in what was written. Reasoning of earlier turns is left out by many a template, as
    is what an assistant says beside its calls: that is how the model is used."""
    calls = message.get("tool_calls") or ()
    if not (calls and message["role"] == "assistant"):
        yield message["content"].rpartition(_THOUGHT)[2] if message["role"] == "assistant" else message["content"]
    for call in calls:
        yield from _leaves(call["function"])


def _parts_of_answer(answer: Message) -> Iterator[tuple[str, str]]:
    """Texts of an answer that must be in what was written, each with what it is."""
    thought, _, said = answer["content"].rpartition(_THOUGHT)
    yield "its reasoning", thought.rpartition(_THINK)[2]
    yield "its reasoning", _reasoning(answer)
    yield "its text", said
    for call in answer.get("tool_calls") or ():
        for leaf in _leaves(call["function"]):
            yield f"its call of {call['function']['name']!r}", leaf


def _reasoning(message: Message) -> str:
    return next((str(message[key]) for key in REASONING if message.get(key)), "")


def _leaves(value: Any) -> Iterator[str]:
    """The texts and numbers in a value."""
    if isinstance(value, dict):
        for item in value.values():
            yield from _leaves(item)
    elif isinstance(value, list):
        for item in value:
            yield from _leaves(item)
    elif isinstance(value, str):
        yield value
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield json.dumps(value)


def _occurs(part: str, text: str) -> bool:
    """Whether a text, less the white space around it, is in what was written, as it is or within JSON."""
    part = part.strip()
    return part in text or any(json.dumps(part, ensure_ascii=ascii_)[1:-1] in text for ascii_ in (False, True))


def _with_text_arguments(message: Message) -> Message:
    calls = message.get("tool_calls")
    if not calls:
        return message
    texts = [{**c["function"], "arguments": json.dumps(c["function"]["arguments"], ensure_ascii=False)} for c in calls]
    return {**message, "tool_calls": [{**call, "function": f} for call, f in zip(calls, texts, strict=True)]}
