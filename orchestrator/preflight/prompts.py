"""What must hold of how prompts are answered, before any teacher is loaded. Imports no torch."""

from __future__ import annotations

import difflib
from pathlib import Path

from orchestrator.config.schema import RunConfig
from orchestrator.prompts.duplicates import question, repeats
from orchestrator.prompts.policy import ConfigConflict, PolicyResolver, PromptPolicy
from orchestrator.prompts.sources import RawPrompt, RejectedRow
from workers.chat_template import read_chat_template, system_message_fault, usual_template, variables_of


def check_answering(config: RunConfig, prompts: list[RawPrompt], folders: dict[str, Path]) -> dict[int, RejectedRow]:
    """Prompts, by index, that cannot be asked or are asked already; `folders` are the teachers'.

    Raises ValueError for settings that no prompt can follow.
    """
    policies, rejected = PolicyResolver(config), {}
    asked: dict[int, PromptPolicy] = {}
    for i, prompt in enumerate(prompts):
        try:
            asked[i] = policies.of(prompt.source, prompt.domains)
        except ConfigConflict:
            raise
        except ValueError as error:
            rejected[i] = prompt.rejected(error)
    _check_text(config, policies, prompts, asked)
    _check_chat(config, policies, prompts, asked, folders)
    _check_kwargs(config, prompts, asked, folders)
    rows = list(asked)
    again = repeats(config, [prompts[i] for i in rows], [question(prompts[i], asked[i]) for i in rows])
    return rejected | {rows[i]: item for i, item in again.items()}


def _check_text(
    config: RunConfig, policies: PolicyResolver, prompts: list[RawPrompt], asked: dict[int, PromptPolicy]
) -> None:
    """Text to be continued has no place for a system prompt, and no template writes it."""
    for i, how in asked.items():
        if how.system_prompt is not None and prompts[i].messages is None:
            key = f"prompts.{prompts[i].source}"
            raise ValueError(
                f"{policies.system_prompt_key(prompts[i])}: row {prompts[i].row + 1} of {key} is text, before which no "
                f"system prompt can stand; say {key}.chat: true to ask it as a user's message, or "
                f"{key}.system_prompt: '' to go without"
            )
    chat = {p.source for p in prompts if p.messages is not None}
    for name, source in config.prompts.items():
        if source.chat_template_kwargs and name not in chat:
            raise ValueError(
                f"prompts.{name}.chat_template_kwargs: {source.chat_template_kwargs}, but its rows are text, which no "
                f"chat template writes; say prompts.{name}.chat: true, or take it out"
            )


def _check_chat(
    config: RunConfig,
    policies: PolicyResolver,
    prompts: list[RawPrompt],
    asked: dict[int, PromptPolicy],
    folders: dict[str, Path],
) -> None:
    """Each teacher's chat template can write what the settings ask for."""
    keys: dict[tuple[str, str | None], str] = {}
    for i, how in asked.items():
        if how.system_prompt is not None:
            keys.setdefault((how.teacher, how.system_prompt), policies.system_prompt_key(prompts[i]))
        elif config.prompts[prompts[i].source].chat:
            keys.setdefault((how.teacher, None), f"prompts.{prompts[i].source}.chat")
    for (teacher, system_prompt), key in keys.items():
        model, template = config.teachers[teacher].model, usual_template(read_chat_template(folders[teacher]))
        if not template:
            raise ValueError(
                f"{key}: the tokenizer of {model!r} has no chat template; take an instruct model as the teacher, or "
                "leave this out"
            )
        if system_prompt is not None and (fault := system_message_fault(template, system_prompt)) is not None:
            raise ValueError(
                f"{key}: the chat template of {model!r} takes no system message (it {fault}); put the words into the "
                "prompts"
            )


def _check_kwargs(
    config: RunConfig, prompts: list[RawPrompt], asked: dict[int, PromptPolicy], folders: dict[str, Path]
) -> None:
    """Each setting of a chat template is one that the template of its teacher reads; others would do nothing."""
    given = {
        (how.teacher, prompts[i].source, domain, name)
        for i, how in asked.items()
        if how.template_settings != "{}" and prompts[i].messages is not None
        for name in how.chat_template_kwargs
        for domain in prompts[i].domains
    }
    for teacher, source, domain, name in sorted(given):
        known: set[str] = set()
        for tools in (False, True):
            variables = variables_of(usual_template(read_chat_template(folders[teacher]), tools=tools))
            if variables is None:  # more than Jinja: only transformers can tell
                return
            known |= variables
        if name in known:
            continue
        own = name in config.prompts[source].chat_template_kwargs
        where = f"prompts.{source}" if own else f"domains.{domain}"
        near = difflib.get_close_matches(name, known, 1, 0.5)
        raise ValueError(
            f"{where}.chat_template_kwargs.{name}: the chat template of {config.teachers[teacher].model!r} reads no "
            "such setting" + (f"; did you mean {near[0]!r}?" if near else f"; it reads {', '.join(sorted(known))}")
        )
