"""What rows share that are asked alike: how many answers they get, and which of them are given."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.config.schema import RunConfig
from orchestrator.prompts.policy import PolicyResolver, PromptPolicy
from orchestrator.prompts.sources import RawPrompt

BYTES_PER_TOKEN = 4
"""Of English prose in a usual vocabulary; what is reckoned of given text is an estimate."""


@dataclass(frozen=True, order=True)
class RowKind:
    """What a row is, without its words."""

    source: str
    domains: tuple[str, ...]
    chat: bool
    """Whether it is a conversation, not text to be continued."""
    given: bool
    """Whether it has an answer."""
    whole: bool
    """Whether all of it is the given answer: there is nothing to ask."""

    @staticmethod
    def of(row: RawPrompt) -> RowKind:
        return RowKind(row.source, row.domains, row.messages is not None, row.answer is not None, row.prompt == "")

    def is_given(self, config: RunConfig, *, heldout: bool) -> bool:
        """Whether the answer is taken as it is given. Held-out text is the teacher's own unless `evaluate.text` says
        otherwise; but of a whole text there is nothing to ask."""
        return self.given and (not heldout or config.evaluate.text == "given" or self.whole)

    def answers(self, config: RunConfig, how: PromptPolicy, answer_bytes: int, *, heldout: bool) -> tuple[int, int]:
        """How many answers a row gets, and target tokens of each: at most, of those that the teacher makes, and of a
        given one an estimate by its bytes, with its end."""
        if self.is_given(config, heldout=heldout):
            return 1, answer_bytes // BYTES_PER_TOKEN + 1
        return config.evaluate.samples if heldout else how.sampling.samples, how.sampling.max_new_tokens

    def how(self, policies: PolicyResolver) -> PromptPolicy:
        """How it is asked. Raises ValueError where its domains disagree."""
        return policies.of(self.source, self.domains)


def answer_bytes(row: RawPrompt) -> int:
    """Bytes of a row's given answer as text; 0 without one."""
    return len((row.answer_text or "").encode(errors="surrogatepass"))
