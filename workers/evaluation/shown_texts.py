"""A few held-out texts of a model token by token: what the teacher and the model hold likely at each, side by side.

Which texts: those on which a model does worst, and as many that a hash of their ids draws, so that a reader sees the
common as well. They are chosen by one model's sums, and shown of that model and of what stands beside it. No torch.

Legend: n target positions.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from workers.evaluation.metrics.domain_scores import DomainScores, worst

Guess = tuple[str, float]
"""A token's text and its probability."""


@dataclass(frozen=True)
class ShownText:
    """One text, or its beginning."""

    prompt: str
    """The prompt's id."""
    worst: bool
    """Whether it was chosen as one on which the model does worst; else it was drawn."""
    before: list[str]
    """The last tokens of the prompt."""
    tokens: list[str]
    """[n] the answer's."""
    more: int
    """Target positions that are not shown."""
    kl: list[float]
    """[n] KL(teacher ‖ model) where each stands, nats."""
    probability: list[float]
    """[n] the model's of the token."""
    teacher_probability: list[float]
    teacher: list[list[Guess]]
    """[n] the teacher's most probable tokens."""
    model: list[list[Guess]]


def chosen(scores: DomainScores, worst_texts: int, seed: int) -> dict[str, bool]:
    """Ids of prompts to show, each with whether it is one of the worst: so many of those, and as many others."""
    found = {each["prompt"]: True for each in worst(scores, worst_texts)}
    others = [uid for uid in scores.prompts if uid not in found]
    others.sort(key=lambda uid: hashlib.blake2b(f"{seed}/{uid}".encode(), digest_size=8).digest())
    return found | dict.fromkeys(others[:worst_texts], False)


def to_bytes(texts: Sequence[ShownText]) -> bytes:
    """Texts as JSON."""
    return json.dumps([asdict(text) for text in texts], ensure_ascii=False).encode()


def from_bytes(data: bytes) -> list[ShownText]:
    """The inverse of `to_bytes`."""
    return list(map(shown_text, json.loads(data)))


def shown_text(fields: dict[str, Any]) -> ShownText:
    """A text from its fields as JSON has them."""
    return ShownText(**fields | {k: _pairs(fields[k]) for k in ("teacher", "model")})


def _pairs(guesses: list[list[list[Any]]]) -> list[list[Guess]]:
    """JSON knows no tuples."""
    return [[(text, p) for text, p in of_position] for of_position in guesses]
