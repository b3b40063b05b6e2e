"""Prompts and answers as token ids, each by the tokenizer and the chat template of the teacher that it is for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jinja2 import TemplateError

from orchestrator.prompts.policy import PromptPolicy, chat_of
from orchestrator.prompts.sources import RawPrompt
from workers.model_files import model_folder, read_model_config, stop_ids
from workers.teacher.config import TeacherConfig


@dataclass(frozen=True)
class TokenizerFacts:
    """What stores record of the tokenizer that the teachers share."""

    fingerprint: str = ""
    chat_template: str = ""
    always_keep: tuple[int, ...] = ()
    """Ids of `targets.always_keep`."""


class TeacherTokenizer:
    """One teacher's tokenizer, the tokens that the teacher can hold, and those that end its answers."""

    def __init__(self, teacher: TeacherConfig) -> None:
        from transformers import AutoConfig, AutoTokenizer

        folder = model_folder(teacher.model, teacher.revision, weights=False)
        self._tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=teacher.trust_remote_code)
        model_config = AutoConfig.from_pretrained(folder, trust_remote_code=teacher.trust_remote_code)
        self.stop_ids = sorted(stop_ids(self._tokenizer, model_config))
        self.longest = int(read_model_config(folder).get("max_position_embeddings") or 1 << 30)
        self.longest = min(self.longest, int(teacher.vllm.engine_kwargs.get("max_model_len") or self.longest))
        self.vocabulary = len(self._tokenizer)
        self._takes: dict[str, bool] = {}

    def prompt(self, prompt: RawPrompt, how: PromptPolicy) -> tuple[str, list[int]]:
        """The text of a prompt as the teacher reads it, and its token ids. Raises ValueError with the reason to
        reject it."""
        messages = chat_of(prompt, how)
        if messages is None:
            text = prompt.prompt or ""
        else:
            if how.system_prompt is not None and messages is not prompt.messages:
                self._require_system(how.system_prompt)
            text = self._written(messages)
        ids = self.ids(text, special=messages is None)
        if not ids:
            raise ValueError("has no tokens")
        return text, ids

    def answer_token_ids(self, text: str) -> list[int]:
        """Token ids of a given answer, with the end token."""
        end = self._tokenizer.eos_token_id
        return self.ids(text, special=False) + ([end] if end is not None else [])

    def ids(self, text: str, *, special: bool) -> list[int]:
        """Token ids of a text. Raises ValueError for text that is no Unicode (JSON can hold half a surrogate pair)."""
        try:
            text.encode()
        except UnicodeEncodeError:
            raise ValueError("is not valid Unicode") from None
        return self._tokenizer(text, add_special_tokens=special).input_ids

    def _written(self, messages: list[dict[str, Any]]) -> str:
        if not self._tokenizer.chat_template:
            raise ValueError("has chat messages, but the teacher's tokenizer has no chat template")
        try:
            return self._tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        except (ValueError, TypeError, KeyError, TemplateError) as error:
            raise ValueError(f"chat messages that the template refuses: {error}") from error

    def _require_system(self, system_prompt: str) -> None:
        """Raise ValueError if the template refuses a system message, or leaves it out."""
        if system_prompt not in self._takes:
            user = {"role": "user", "content": "text"}
            with_system = self._written([{"role": "system", "content": system_prompt}, user])
            self._takes[system_prompt] = with_system != self._written([user])
        if not self._takes[system_prompt]:
            raise ValueError("has a system prompt, which the teacher's chat template leaves out")
