"""Prompts that ask the same again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Hashable, Sequence
from typing import Any

from orchestrator.config.schema import RunConfig
from orchestrator.prompts.policy import PromptPolicy, chat_of
from orchestrator.prompts.sources import RawPrompt, RejectedRow
from workers.splits import HELDOUT


def question(prompt: RawPrompt, how: PromptPolicy) -> Hashable:
    """What two prompts share that ask the same: domains, way of answering, given answer, and the text as it is before
    any template."""
    return prompt.domains, how, content_digest(prompt, [chat_of(prompt, how) or prompt.prompt, prompt.tools])


def content_digest(prompt: RawPrompt, asked: Any) -> bytes:
    """What stands for what is asked, in whichever form that is known, with a given answer."""
    return hashlib.sha256(json.dumps([asked, prompt.answer], sort_keys=True, default=str).encode()).digest()


REPEATS = ("repeats an earlier prompt", "repeats a held-out prompt")
"""Why a prompt is rejected that repeats one; the second where that one is held out."""


def repeats(config: RunConfig, prompts: Sequence[RawPrompt], questions: Sequence[Hashable]) -> dict[int, RejectedRow]:
    """Which prompts are to be rejected, by index, as they repeat another one. One that its row holds out stays."""
    first: dict[Hashable, RawPrompt] = {}
    found: dict[int, RejectedRow] = {}
    for i in sorted(range(len(prompts)), key=lambda i: prompts[i].split != HELDOUT):
        prompt = prompts[i]
        earlier = first.setdefault(questions[i], prompt)
        if earlier is not prompt and config.prompts[prompt.source].duplicates == "drop":
            found[i] = prompt.rejected(REPEATS[earlier.split == HELDOUT])
    return found
