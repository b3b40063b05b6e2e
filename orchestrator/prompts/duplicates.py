"""Prompts that ask the same again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Hashable, Sequence

from orchestrator.config.schema import RunConfig
from orchestrator.prompts.policy import PromptPolicy, chat_of
from orchestrator.prompts.sources import RawPrompt, RejectedRow
from workers.splits import HELDOUT


def question(prompt: RawPrompt, how: PromptPolicy, text: str | None = None) -> Hashable:
    """What two prompts share that ask the same: domains, way of answering, given answer, and the text: as the teacher
    reads it where that is known, else as it is before any template."""
    written = text if text is not None else [chat_of(prompt, how) or prompt.prompt, prompt.tools]
    content = json.dumps([written, prompt.answer], sort_keys=True, default=str)
    return prompt.domains, how, hashlib.sha256(content.encode()).digest()


def repeats(config: RunConfig, prompts: Sequence[RawPrompt], questions: Sequence[Hashable]) -> dict[int, RejectedRow]:
    """Which prompts are to be rejected, by index, as they repeat another one. One that its row holds out stays."""
    first: dict[Hashable, RawPrompt] = {}
    found: dict[int, RejectedRow] = {}
    for i in sorted(range(len(prompts)), key=lambda i: prompts[i].split != HELDOUT):
        prompt = prompts[i]
        earlier = first.setdefault(questions[i], prompt)
        if earlier is not prompt and config.prompts[prompt.source].duplicates == "drop":
            held = earlier.split == HELDOUT
            reason = "repeats a held-out prompt" if held else "repeats an earlier prompt"
            found[i] = prompt.rejected(reason)
    return found
