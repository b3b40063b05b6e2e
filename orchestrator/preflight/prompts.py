"""What must hold of how prompts are answered, before any teacher is loaded. Imports no torch."""

from __future__ import annotations

from pathlib import Path

from orchestrator.config.schema import RunConfig
from orchestrator.prompts.duplicates import question, repeats
from orchestrator.prompts.policy import ConfigConflict, PolicyResolver, PromptPolicy
from orchestrator.prompts.sources import RawPrompt, RejectedRow
from workers.chat_template import read_chat_template, system_message_fault, usual_template


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
            rejected[i] = RejectedRow(prompt.source, prompt.row, prompt.id, str(error))
    _check_text(policies, prompts, asked)
    _check_chat(config, policies, prompts, asked, folders)
    rows = list(asked)
    again = repeats(config, [prompts[i] for i in rows], [question(prompts[i], asked[i]) for i in rows])
    return rejected | {rows[i]: item for i, item in again.items()}


def _check_text(policies: PolicyResolver, prompts: list[RawPrompt], asked: dict[int, PromptPolicy]) -> None:
    """Text to be continued has no place for a system prompt."""
    for i, how in asked.items():
        if how.system_prompt is not None and prompts[i].messages is None and not how.chat:
            source = prompts[i].source
            raise ValueError(
                f"{policies.system_prompt_key(prompts[i])}: row {prompts[i].row + 1} of prompts.{source} is text, "
                f"before which no system prompt can stand; say prompts.{source}.chat: true to ask it as a user's "
                f"message, or prompts.{source}.system_prompt: '' to go without"
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
        elif how.chat:
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
