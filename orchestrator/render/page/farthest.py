"""Where a specialist is farthest from its teacher: the tokens, before a reader has looked for them."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from orchestrator.render.page.tokens import TokenText

SHOWN = 5
"""Tokens of each specialist."""

_BEFORE = 6
"""Tokens that are read before one."""


@dataclass(frozen=True)
class FarToken:
    """A token of a text, and what each model holds likeliest there."""

    before: str
    token: str
    kl: float
    choices: Sequence[tuple[str, str]]
    """By model, its likeliest token and how likely that is."""


def farthest(texts: Sequence[TokenText]) -> list[FarToken]:
    """The tokens of some texts with the largest KL, the largest first."""
    models = list(dict.fromkeys(name for text in texts for name in text.columns))
    places = heapq.nlargest(SHOWN, _places(texts), key=lambda place: place[0])
    return [_of(texts[i], at, kl, models) for kl, i, at in places]


def _places(texts: Sequence[TokenText]) -> Iterator[tuple[float, int, int]]:
    for i, text in enumerate(texts):
        yield from ((kl, i, at) for at, kl in enumerate(text.kl))


def _of(text: TokenText, at: int, kl: float, models: Sequence[str]) -> FarToken:
    tokens = [token for token, _ in text.shown]
    before = "".join(tokens[max(at - _BEFORE, 0) : at])
    if at < _BEFORE:  # of the prompt, as much
        before = text.before[-4 * (_BEFORE - at) :] + before
    choices = [(name, _likeliest(text.columns[name][at]) if name in text.columns else "") for name in models]
    return FarToken(before.replace("⏎\n", "⏎ "), tokens[at].replace("⏎\n", "⏎"), kl, choices)


def _likeliest(guesses: Sequence[tuple[str, float]]) -> str:
    """With the probability."""
    token, probability = guesses[0]
    return f"{token} {probability:.0%}"
