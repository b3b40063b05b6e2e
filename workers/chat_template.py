"""A model's chat template: its text, what it reads, and writing conversations with it. Loads neither transformers nor
torch: the environment is the one that transformers gives to templates, which a test compares text for text."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

from workers.model_files import read_json_object

_SPECIAL_NAMES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")

_REASONING = ("reasoning_content", "thinking", "reasoning")
"""Names under which a message holds its reasoning; templates read the first or the second."""

Message = dict[str, Any]

Writer = Callable[..., str]
"""`write(messages, tools=..., add_generation_prompt=..., **kwargs)`: a conversation as text. Raises ValueError with the
template's reason where it refuses it."""


def read_chat_template(folder: Path) -> Any:
    """The template, wherever the tokenizer keeps it: text, or a list of {name, template}; "" where it has none."""
    if (folder / "chat_template.jinja").exists():
        return (folder / "chat_template.jinja").read_text()
    if (folder / "tokenizer_config.json").exists():
        return read_json_object(folder / "tokenizer_config.json").get("chat_template") or ""
    return ""


def usual_template(template: Any, *, tools: bool = False) -> str:
    """The template that is used unless another is asked for by name; of several, the one named `tool_use` where there
    are tools."""
    if not isinstance(template, list):
        return str(template)
    named = {str(t.get("name")): str(t["template"]) for t in template}
    return named["tool_use"] if tools and "tool_use" in named else named.get("default", "")


def template_writer(folder: Path) -> Writer | None:
    """A model's template, ready to write; None where it has none. Raises ValueError for one that is no template."""
    template = read_chat_template(folder)
    if not usual_template(template):
        return None
    plain, with_tools = (_compiled(usual_template(template, tools=tools)) for tools in (False, True))
    special = special_tokens(folder)

    def write(messages: list[Message], *, add_generation_prompt: bool, tools: Any = None, **kwargs: Any) -> str:
        chat = [_named_reasoning({k: v for k, v in m.items() if v is not None}) for m in messages]
        given = {**special, **kwargs, "tools": tools, "documents": None, "add_generation_prompt": add_generation_prompt}
        return refusals(lambda: (with_tools if tools else plain).render(messages=chat, **given))

    return write


def refusals(render: Callable[[], str]) -> str:
    """What a template writes. Raises ValueError with its reason where it refuses, or fails on what it is given."""
    from jinja2.exceptions import TemplateError

    try:
        return render()
    except (TemplateError, ValueError, TypeError, KeyError, AttributeError, IndexError) as error:
        raise ValueError(f"chat messages that the template refuses: {error}") from error


def variables_of(template: str) -> set[str] | None:
    """What a template reads from outside: `messages`, `tools`, and settings such as `enable_thinking`. None where it
    is no template of plain Jinja."""
    from jinja2 import TemplateError, meta

    try:
        return set(meta.find_undeclared_variables(_environment().parse(template)))
    except TemplateError:
        return None


def system_message_fault(template: str, system_prompt: str) -> str | None:
    """What is wrong with a system message in a template: it refuses it, or leaves it out. None where it takes it, or
    where that shows only in transformers (a template that uses more than Jinja)."""
    from jinja2.exceptions import TemplateError

    def rendered(*messages: dict[str, str]) -> str:
        return compiled.render(messages=list(messages), add_generation_prompt=True)

    user = {"role": "user", "content": "text"}
    try:
        compiled = _environment().from_string(template)
        without = rendered(user)
        return None if rendered({"role": "system", "content": system_prompt}, user) != without else "leaves it out"
    except TemplateError as error:
        return f"refuses it: {error}" if getattr(error, "refusal", False) else None
    except (TypeError, ValueError, KeyError):
        return None


def _compiled(template: str) -> Any:
    from jinja2.exceptions import TemplateError

    try:
        return _environment().from_string(template)
    except TemplateError as error:
        raise ValueError(f"model: its chat template is not Jinja ({error})") from None


@lru_cache
def _environment() -> Any:
    import jinja2.ext
    import jinja2.nodes
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(jinja2.ext.Extension):
        """`{% generation %}`, which marks what an assistant says, writes what it holds."""

        tags = {"generation"}

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return jinja2.nodes.Scope(body, lineno=line)

    def refuse(message: str) -> None:
        error = jinja2.exceptions.TemplateError(message)
        error.refusal = True  # type: ignore[attr-defined]
        raise error

    def tojson(value: Any, ensure_ascii: bool = False, **options: Any) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, **options)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = tojson
    environment.globals.update(raise_exception=refuse, strftime_now=lambda how: datetime.now().strftime(how))
    return environment


def special_tokens(folder: Path) -> dict[str, str]:
    """The special tokens that templates write by name, such as bos_token."""
    found: dict[str, str] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        if (folder / name).exists():
            content = read_json_object(folder / name)
            for key in _SPECIAL_NAMES:
                token = content.get(key)
                token = token.get("content") if isinstance(token, dict) else token
                if isinstance(token, str):
                    found[key] = token
    return found


def _named_reasoning(message: Message) -> Message:
    """Reasoning under both names that templates read, as transformers does it."""
    reasoning = next((message[key] for key in _REASONING if message.get(key) is not None), None)
    return message if reasoning is None else {"thinking": reasoning, **message, "reasoning_content": reasoning}
