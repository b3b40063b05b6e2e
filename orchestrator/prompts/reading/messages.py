"""Chat messages as people have them, brought into the form that templates read: role, content as text, tool calls.

Roles and keys of OpenAI and TRL (role, content, tool_calls) and of ShareGPT (from, value). Reasons to reject a row name
the turn, counted from 1.
"""

from __future__ import annotations

import json
from typing import Any

Message = dict[str, Any]

_ROLES = {"human": "user", "gpt": "assistant", "chatgpt": "assistant", "bot": "assistant", "model": "assistant"} | {
    "observation": "tool",
    "function": "tool",
    "function_response": "tool",
}
"""Other names of roles."""

_USUAL = {"system", "user", "assistant", "tool"}

_CALL = "function_call"
"""ShareGPT's role, and OpenAI's old key, of an assistant's call of a function."""

REASONING = ("reasoning_content", "thinking", "reasoning")


def normal_messages(value: Any) -> list[Message]:
    """Messages in one form. Raises ValueError with the reason to reject the row."""
    if isinstance(value, str):
        value = _from_json(value, "is text, not a list of messages")
    if not isinstance(value, list) or not value or not all(isinstance(m, dict) for m in value):
        raise ValueError("is not a list of messages")
    return [_message(m, turn) for turn, m in enumerate(value, 1)]


def split_answer(messages: list[Message]) -> tuple[list[Message], Message | None]:
    """A conversation as the turns before its answer, and the answer: its last turn, where that is the assistant's.

    Raises ValueError for one that leaves nothing to answer.
    """
    answer = messages[-1] if messages[-1]["role"] == "assistant" else None
    before = messages[:-1] if answer is not None else messages
    if not before:
        raise ValueError("has an assistant's turn and none before it")
    last = before[-1]
    if last["role"] in ("system", "developer"):
        raise ValueError(f"ends with the {last['role']}'s turn: there is nothing to answer")
    if not last["content"].strip() and not last.get("tool_calls"):
        raise ValueError(f"turn {len(before)}, the one to answer, is empty")
    return before, answer


def normal_tools(value: Any) -> list[dict[str, Any]] | None:
    """The `tools` of a row: a list of functions, or its JSON text; None where there are none."""
    if isinstance(value, str):
        value = _from_json(value, "is text that is not JSON") if value.strip() else None
    if value is None or value == []:
        return None
    if not isinstance(value, list) or not all(isinstance(t, dict) for t in value):
        raise ValueError("is not a list of tools")
    return [_tool(t, number) for number, t in enumerate(value, 1)]


def assistant(text: str) -> Message:
    """A given answer as the assistant's turn."""
    return {"role": "assistant", "content": text}


def user(text: str) -> Message:
    """A question as a user's turn."""
    return {"role": "user", "content": text}


_PLAIN = {"role", "content"}


def _message(given: Message, turn: int) -> Message:
    role, content = given.get("role"), given.get("content")
    if given.keys() == _PLAIN and isinstance(role, str) and role in _USUAL and isinstance(content, str):
        return given  # most are in the form already
    message = {k: v for k, v in given.items() if v is not None}
    if "role" not in message and "from" in message:
        message["role"] = message.pop("from")
        message["content"] = message.pop("value", None)
    role = message.get("role")
    if not isinstance(role, str) or not role:
        raise ValueError(f"turn {turn} has no role")
    if role == _CALL:
        message = {**message, "role": "assistant", "content": None, "tool_calls": [_call_of(message["content"], turn)]}
    else:
        message["role"] = _ROLES.get(role, role)
    if _CALL in message:
        message["tool_calls"] = [_call_of(message.pop(_CALL), turn)]
    calls = _calls(message.pop("tool_calls", None), turn)
    content = _content(message.get("content"), message["role"], turn)
    if content is None and not calls and not any(message.get(key) for key in REASONING):
        raise ValueError(f"turn {turn} has no content")
    ordered = {"role": message.pop("role"), "content": content or ""}  # templates would write `None`
    message.pop("content", None)
    return ordered | message | ({"tool_calls": calls} if calls else {})


def _content(content: Any, role: str, turn: int) -> str | None:
    if content is None or isinstance(content, str):
        return content
    if isinstance(content, list):
        return "\n".join(_part(part, turn) for part in content)
    if role == "tool":
        return json.dumps(content, ensure_ascii=False)
    raise ValueError(f"turn {turn}: its content is {type(content).__name__}, not text")


def _part(part: Any, turn: int) -> str:
    """A content part's text."""
    if isinstance(part, str):
        return part
    kind = part.get("type") if isinstance(part, dict) else type(part).__name__
    if kind in ("text", "input_text", "output_text") and isinstance(part.get("text"), str):
        return part["text"]
    raise ValueError(f"turn {turn} has a part of type {kind!r}, and a teacher reads text only")


def _calls(calls: Any, turn: int) -> list[dict[str, Any]]:
    if isinstance(calls, str):
        calls = _from_json(calls, f"turn {turn}: its tool_calls are text that is not JSON")
    if calls is None:
        return []
    if not isinstance(calls, list):
        raise ValueError(f"turn {turn}: its tool_calls are {type(calls).__name__}, not a list")
    return [_call(call, turn) for call in calls]


def _call_of(value: Any, turn: int) -> Any:
    return _from_json(value, f"turn {turn}: its call of a function is not JSON") if isinstance(value, str) else value


def _call(call: Any, turn: int) -> dict[str, Any]:
    """One call as {id, type, function: {name, arguments}}, its arguments an object: most templates write them as JSON,
    and would write text as JSON in JSON."""
    function = call.get("function", call) if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise ValueError(f"turn {turn}: a tool call has no function with a name")
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        why = f"turn {turn}: the arguments of {function['name']!r} are not JSON"
        arguments = _from_json(arguments, why) if arguments.strip() else {}
    if arguments is not None and not isinstance(arguments, dict):
        raise ValueError(f"turn {turn}: the arguments of {function['name']!r} are not an object")
    own = {k: v for k, v in call.items() if v is not None and k not in ("function", "name", "arguments", "type")}
    return {**own, "type": "function", "function": {"name": function["name"], "arguments": arguments or {}}}


def _tool(tool: dict[str, Any], number: int) -> dict[str, Any]:
    function = tool.get("function", tool)
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise ValueError(f"tool {number} has no function with a name")
    return {"type": (tool.get("type") if "function" in tool else None) or "function", "function": function}


def _from_json(text: str, why: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError(why) from None
