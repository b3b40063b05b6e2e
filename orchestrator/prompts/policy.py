"""How each prompt is to be answered: by which teacher, sampled how, behind which system prompt. Touches no model.

A prompt's source has the last word, then its domains, then the teacher, setting by setting:

    prompts.SOURCE.{teacher,sampling,system_prompt,chat_template_kwargs}  over  domains.DOMAIN.{...}  over
    teachers.TEACHER.sampling
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Literal

from orchestrator.config.schema import DomainConfig, RunConfig
from orchestrator.prompts.reading.messages import Message
from orchestrator.prompts.sources import RawPrompt
from workers.teacher.config import SamplingConfig

_SYSTEM_ROLES = ("system", "developer")


class ConfigConflict(ValueError):
    """Settings of a source, a domain and a teacher that make no sense together. The message names their key."""


@dataclass(frozen=True)
class PromptPolicy:
    """How a prompt is answered."""

    teacher: str
    sampling: SamplingConfig
    system_prompt: str | None = None
    template_settings: str = "{}"
    """What the chat template is given, as JSON with its keys in order."""
    special_tokens: Literal["text", "tokens"] = "text"
    answer_format: Literal["template", "verbatim"] = "template"

    @property
    def chat_template_kwargs(self) -> dict[str, Any]:
        return json.loads(self.template_settings)

    def differences(self, other: PromptPolicy) -> dict[str, tuple[Any, Any]]:
        """The settings that another way of answering has otherwise."""
        mine, theirs = self._settings(), other._settings()
        return {name: (mine[name], theirs[name]) for name in mine if mine[name] != theirs[name]}

    def _settings(self) -> dict[str, Any]:
        kwargs = {"chat_template_kwargs": self.template_settings}
        return {"teacher": self.teacher, "system_prompt": self.system_prompt, **kwargs, **self.sampling.model_dump()}


class PolicyResolver:
    """How the prompts of a configuration are answered, by source and domains."""

    def __init__(self, config: RunConfig) -> None:
        self._config = config
        self._known: dict[tuple[str, tuple[str, ...]], PromptPolicy] = {}

    def of(self, source: str, domains: tuple[str, ...]) -> PromptPolicy:
        """How a prompt of a source and some domains is answered.

        Raises ValueError, a reason to reject it, where its domains disagree; ConfigConflict.
        """
        if (source, domains) not in self._known:
            self._known[source, domains] = self._shared(source, domains)
        return self._known[source, domains]

    def system_prompt_key(self, prompt: RawPrompt) -> str:
        """The key that says which system prompt a prompt has."""
        own = self._config.prompts[prompt.source].system_prompt is not None
        return f"prompts.{prompt.source}.system_prompt" if own else f"domains.{prompt.domains[0]}.system_prompt"

    def _shared(self, source: str, domains: tuple[str, ...]) -> PromptPolicy:
        first, *others = (self._in_domain(source, d) for d in domains)
        for domain, other in zip(domains[1:], others, strict=True):
            for name, (one, two) in first.differences(other).items():
                values = "" if name == "system_prompt" else f" ({one} and {two})"
                raise ValueError(f"belongs to {domains[0]} and {domain}, which disagree on {name}{values}")
        return first

    def _in_domain(self, source: str, domain: str) -> PromptPolicy:
        config, own = self._config, self._config.prompts[source]
        settings = config.domains.get(domain, DomainConfig())
        teacher = own.teacher or config.teacher_of(domain)
        try:
            sampling = config.teachers[teacher].sampling.changed(settings.sampling, own.sampling)
        except ValueError as error:
            where = f"prompts.{source}" if own.sampling is not None else f"domains.{domain}"
            raise ConfigConflict(f"{where}.sampling, for {domain} and the teacher {teacher!r}: {error}") from None
        prompt = own.system_prompt if own.system_prompt is not None else settings.system_prompt
        kwargs = settings.chat_template_kwargs | own.chat_template_kwargs
        return PromptPolicy(
            teacher, sampling, prompt or None, json.dumps(kwargs, sort_keys=True), own.special_tokens, own.answer_format
        )


def chat_of(prompt: RawPrompt, how: PromptPolicy) -> list[Message] | None:
    """The messages of a prompt, behind its system prompt; None for text that stands as it is.

    A row's own system message takes the system prompt's place. Raises ValueError for text with a system prompt.
    """
    if prompt.messages is None:
        if how.system_prompt is not None:
            raise ValueError(
                f"is text, before which no system prompt can stand; say prompts.{prompt.source}.chat: true, or "
                f"prompts.{prompt.source}.system_prompt: ''"
            )
        return None
    if how.system_prompt is None or any(m["role"] in _SYSTEM_ROLES for m in prompt.messages):
        return prompt.messages
    return [{"role": "system", "content": how.system_prompt}, *prompt.messages]


def prompt_bytes(prompt: RawPrompt, how: PromptPolicy) -> int:
    """Bytes of the words of a prompt, without what a chat template puts around them."""
    messages = chat_of(prompt, how)
    words = (prompt.prompt or "") if messages is None else "".join(str(m.get("content", "")) for m in messages)
    return len(words.encode(errors="surrogatepass"))
