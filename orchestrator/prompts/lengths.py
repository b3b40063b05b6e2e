"""How long texts are, and what can hold them."""

from __future__ import annotations

from orchestrator.config.schema import RunConfig
from orchestrator.prompts.policy import PromptPolicy
from orchestrator.prompts.sources import RawPrompt
from orchestrator.prompts.tokenizing import TokenizedPrompt
from workers.splits import HELDOUT


def given_token_ids(config: RunConfig, row: RawPrompt, tokens: TokenizedPrompt, split: str) -> list[int] | None:
    """The given answer of a prompt in its split; None where the teacher answers. Held-out text is the teacher's own
    unless `evaluate.text` says otherwise; but of a whole text there is nothing to ask."""
    if split == HELDOUT and config.evaluate.text != "given" and row.prompt != "":
        return None
    return tokens.answer_token_ids


def text_tokens(how: PromptPolicy, tokens: TokenizedPrompt, given: list[int] | None) -> int:
    """Tokens of the longest text that may come of a prompt, its answer included."""
    return len(tokens.prompt_token_ids) + (len(given) if given is not None else how.sampling.max_new_tokens)


def check_length(config: RunConfig, source: str, tokens: int, holds: int) -> None:
    """Raise ValueError, the reason to reject its row, for a text that is longer than its source allows or its teacher
    holds."""
    most = min(holds, config.prompts[source].max_tokens or holds)
    if tokens > most:
        whose = f"prompts.{source}.max_tokens" if most < holds else "the teacher"
        raise ValueError(f"longer than the {most} tokens of {whose}")
