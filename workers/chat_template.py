"""A model's chat template as text, and whether it takes a system message. Loads neither transformers nor torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from workers.model_files import read_json_object


def read_chat_template(folder: Path) -> Any:
    """The template, wherever the tokenizer keeps it: text, or a list of {name, template}; "" where it has none."""
    if (folder / "chat_template.jinja").exists():
        return (folder / "chat_template.jinja").read_text()
    if (folder / "tokenizer_config.json").exists():
        return read_json_object(folder / "tokenizer_config.json").get("chat_template") or ""
    return ""


def usual_template(template: Any) -> str:
    """The template that is used unless another is asked for by name."""
    if isinstance(template, list):
        return next((str(t["template"]) for t in template if t.get("name") == "default"), "")
    return str(template)


def system_message_fault(template: str, system_prompt: str) -> str | None:
    """What is wrong with a system message in a template: it refuses it, or leaves it out. None where it takes it, or
    where that shows only in transformers (a template that uses more than Jinja)."""
    import jinja2.ext
    from jinja2.exceptions import TemplateError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def refuse(message: str) -> None:
        raise _Refused(message)

    def rendered(*messages: dict[str, str]) -> str:
        return compiled.render(messages=list(messages), add_generation_prompt=True)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[jinja2.ext.loopcontrols]
    )
    environment.globals.update(raise_exception=refuse, strftime_now=lambda _: "")
    user = {"role": "user", "content": "text"}
    try:
        compiled = environment.from_string(template)
        without = rendered(user)
        return None if rendered({"role": "system", "content": system_prompt}, user) != without else "leaves it out"
    except _Refused as refused:
        return f"refuses it: {refused}"
    except (TemplateError, TypeError, ValueError, KeyError):
        return None


class _Refused(Exception):
    """What a template says by raise_exception."""
