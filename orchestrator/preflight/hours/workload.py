"""What teachers write and read and students train on, in tokens: what hours follow from."""

from __future__ import annotations

from dataclasses import dataclass, field

from orchestrator.config.schema import RunConfig
from orchestrator.prompts.policy import PromptPolicy
from orchestrator.prompts.sources import RawPrompt


@dataclass
class Capture:
    """What one teacher makes, of both splits: at most, of what it writes."""

    texts: float = 0.0
    targets: float = 0.0
    """Target tokens."""
    read: float = 0.0
    """Tokens that pass through it many at once: prompts (once for all answers to one) and given answers."""
    written: float = 0.0
    """Tokens that it makes, or walks through, one after another."""
    context: float = 0.0
    """Tokens that stand before one of those, summed over them."""


@dataclass
class Text:
    """Texts of one domain; those of several count in each."""

    targets: float = 0.0
    tokens: float = 0.0
    """All of them, prompts too."""


@dataclass
class Workload:
    """All work of a run, from its prompts or a sample of them."""

    teachers: dict[str, Capture] = field(default_factory=dict)
    train: dict[str, Text] = field(default_factory=dict)
    """By domain."""
    heldout: dict[str, Text] = field(default_factory=dict)
    train_texts: float = 0.0

    def add(self, row: Row, config: RunConfig, rows: float, *, heldout: bool) -> None:
        """Count a prompt that stands for so many rows of a split."""
        teacher, texts = config.teachers[row.how.teacher], rows * row.texts
        own = self.teachers.setdefault(row.how.teacher, Capture())
        walks = teacher.engine == "vllm" and config.targets.scheme != "topk"
        targets = texts * row.targets(config, heldout=heldout)
        own.texts += texts
        own.targets += targets
        own.read += rows * row.before
        if row.given and not walks:
            own.read += texts * row.answer
        else:
            own.written += texts * row.answer
            own.context += texts * row.answer * (row.before + row.answer / 2)
        self.train_texts += 0.0 if heldout else texts
        for domain in row.prompt.domains:
            text = (self.heldout if heldout else self.train).setdefault(domain, Text())
            text.targets += targets
            text.tokens += texts * (row.before + row.answer)


@dataclass(frozen=True)
class Row:
    """A prompt, and how it is asked in a split."""

    prompt: RawPrompt
    how: PromptPolicy
    texts: int
    answer: int
    """Target tokens of each text's answer: at most, or of a given one about."""
    before: int
    """Tokens before it, about."""
    given: bool

    def targets(self, config: RunConfig, *, heldout: bool) -> int:
        """Target tokens of one of its texts."""
        return self.answer + (self.before if config.targets.positions == "all" and not heldout else 0)
