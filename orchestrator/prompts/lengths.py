"""How long texts are, and what can hold them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

from orchestrator.config.schema import RunConfig
from orchestrator.prompts.kinds import BYTES_PER_TOKEN, RowKind
from orchestrator.prompts.policy import PromptPolicy
from orchestrator.prompts.sources import RawPrompt
from orchestrator.prompts.tokenizing import TokenizedPrompt
from workers.fetching.folder import model_folder
from workers.model_files import read_model_config
from workers.splits import HELDOUT
from workers.student.models.positions import Positions, positions_of


@dataclass
class Tokenized:
    """Text that was tokenized: its bytes, and the tokens that it became."""

    text: int = 0
    tokens: int = 0

    def add(self, text: int, tokens: int) -> None:
        """Count a text of so many bytes."""
        self.text, self.tokens = self.text + text, self.tokens + tokens

    def tokens_of(self, text: int) -> int:
        """Tokens of so many bytes of such text, about; by English prose in a usual vocabulary where none was tried."""
        return round(text * self.tokens / self.text) if self.text else text // BYTES_PER_TOKEN


@dataclass
class TextLengths:
    """How long texts are in tokens, by the rows of each source that were tried."""

    prompts: defaultdict[str, Tokenized] = field(default_factory=lambda: defaultdict(Tokenized))
    """With what a chat template puts around them."""
    answers: defaultdict[str, Tokenized] = field(default_factory=lambda: defaultdict(Tokenized))
    """Given ones, with their end."""


def given_token_ids(config: RunConfig, row: RawPrompt, tokens: TokenizedPrompt, split: str) -> list[int] | None:
    """The given answer of a prompt in its split; None where the teacher answers."""
    return tokens.answer_token_ids if RowKind.of(row).is_given(config, heldout=split == HELDOUT) else None


def text_tokens(how: PromptPolicy, tokens: TokenizedPrompt, given: list[int] | None) -> int:
    """Tokens of the longest text that may come of a prompt, its answer included."""
    return len(tokens.prompt_token_ids) + (len(given) if given is not None else how.sampling.max_new_tokens)


def check_length(config: RunConfig, source: str, tokens: int, holds: int) -> None:
    """Raise ValueError, the reason to reject its row, for a text that is longer than its source allows or its teacher
    holds."""
    most, reason = length_limit(config, source, holds)
    if tokens > most:
        raise ValueError(reason)


def length_limit(config: RunConfig, source: str, holds: int) -> tuple[int, str]:
    """Tokens of the longest text that a source allows and its teacher holds, and why a longer one is rejected."""
    most = min(holds, config.prompts[source].max_tokens or holds)
    whose = f"prompts.{source}.max_tokens" if most < holds else "the teacher"
    return most, f"longer than the {most} tokens of {whose}"


def positions_by_settings(config: RunConfig) -> dict[str, Positions]:
    """The positions of each specialist that its settings, or its base's files, tell without building it."""
    found = {}
    for name, specialist in config.specialists.items():
        model = specialist.model
        says = model.config
        if says is None:
            says = read_model_config(model_folder(str(model.source), model.revision, weights=False))
        if (positions := positions_of(says)) is not None:
            found[name] = positions
    return found


def check_students_hold(config: RunConfig, longest: Mapping[str, int], positions: Mapping[str, Positions]) -> None:
    """Raise ValueError for a specialist that has no positions for the texts it is trained on, or where each position
    has its own weights, for those it is measured on. `longest` are tokens by domain."""
    for name, held in positions.items():
        specialist, cut = config.specialists[name], config.specialists[name].texts.max_tokens
        trained = max((n for domain, n in longest.items() if config.mix_of(name).get(domain)), default=0)
        needed = min(trained, cut or trained)
        if held.learned:
            needed = max(needed, *longest.values(), 0)
        if needed <= held.held:
            continue
        new, where = specialist.model.config is not None, f"specialists.{name}"
        key = f"{where}.model.config.{held.key}" if new else f"{where}.model: {held.key} of {specialist.model.source!r}"
        remedies = [f"give at least {needed}" if new else "take a base that holds them"]
        if trained > held.held and not held.learned:
            remedies.append(f"set {where}.texts.max_tokens: {held.held}, which cuts them into pieces")
        raise ValueError(
            f"{key}: {held.held}, but its texts may have {needed} tokens, prompt and answer; "
            f"{', or '.join([*remedies, 'give a smaller max_new_tokens or prompts.*.max_tokens'])}"
        )
