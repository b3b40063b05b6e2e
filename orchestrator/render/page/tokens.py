"""Texts token by token: each token coloured by a number, with what models hold likely there where one looks closer.

One component for every page that shows text: the report, `ask --html`, `targets show --html`. The page's script reads
the guesses from the JSON beside the markup; without a script the colours are there all the same.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.config.students import HARD_LABELS
from orchestrator.reporting.measures.shown import Texts
from orchestrator.reporting.report import Report
from workers.evaluation.shown_texts import ShownText

Guesses = Sequence[Sequence[tuple[str, float]]]
"""At each token the most probable ones."""

FULL_KL = 1.5
"""Nats at which a token is coloured in full."""


@dataclass(frozen=True)
class TokenText:
    """One text."""

    title: str
    note: str
    before: str
    """What stands before the tokens that are told of."""
    tokens: Sequence[str]
    shades: Sequence[float]
    """How strongly each is coloured, 0 to 1."""
    saying: str
    """What the colour stands for, with `{}` where numbers go."""
    values: Sequence[Sequence[str]]
    """These numbers, of each token."""
    columns: Mapping[str, Guesses]
    """By model, what it holds likely at each token."""
    kl: Sequence[float] = ()
    """Of each token, where texts are told apart by it."""

    @property
    def shown(self) -> list[tuple[str, str]]:
        """Tokens as they are read, with their shades; an empty one where a token is not coloured."""
        shades = [f"{shade:.2g}" if shade else "" for shade in self.shades]
        return [(readable(token), shade) for token, shade in zip(self.tokens, shades, strict=True)]


def readable(token: str) -> str:
    """A token's visible text as running text: spaces as such, a line's end as a sign and a break."""
    return token.replace("␣", " ").replace("\\n", "⏎\n").replace("\\t", "\t")


def texts_of(report: Report, models: Texts) -> dict[str, list[TokenText]]:
    """By specialist, or model and domain, the held-out texts that are kept token by token."""
    found: dict[str, list[TokenText]] = {}
    for name, by_domain in models.items():
        if name.endswith(f".{HARD_LABELS}"):
            continue
        control = models.get(f"{name}.{HARD_LABELS}", {})
        for domain, texts in by_domain.items():
            beside = {text.prompt: text for text in control.get(domain, ())}
            title = name if name in report.students else f"{name} on {domain}"
            found[title] = [_of(text, beside.get(text.prompt)) for text in texts]
    return found


def _of(text: ShownText, control: ShownText | None) -> TokenText:
    mean = sum(text.kl) / max(len(text.kl), 1)
    why = "one of those it does worst on" if text.worst else "drawn"
    columns: dict[str, Guesses] = {"teacher": text.teacher, "specialist": text.model}
    if control is not None:
        columns["hard labels"] = control.model
    more = f", {text.more:,} more are not shown" if text.more else ""
    return TokenText(
        title=text.prompt,
        note=f"{why}; mean KL {mean:.3f} nats over {len(text.kl):,} tokens{more}",
        before="".join(map(readable, text.before)),
        tokens=text.tokens,
        shades=[round(min(max(kl, 0.0) / FULL_KL, 1.0), 2) for kl in text.kl],
        saying="KL {} nats; the model gives this token {}, its teacher {}",
        values=[
            (f"{kl:.3f}", f"{own:.1%}", f"{theirs:.1%}")
            for kl, own, theirs in zip(text.kl, text.probability, text.teacher_probability, strict=True)
        ],
        columns=columns,
        kl=text.kl,
    )


def guesses_json(texts: Mapping[str, Sequence[TokenText]]) -> str:
    """What the page's script shows of each token, by the place of its text in the page. Tokens are indices into
    `words`, and probabilities parts of a thousand: twelve specialists then take 1.6 MB in place of 2.3."""
    words: dict[str, int] = {}

    def index(word: str) -> int:
        return words.setdefault(word, len(words))

    def flat(guesses: Sequence[tuple[str, float]]) -> list[int]:
        return [n for token, p in guesses for n in (index(token), round(1000 * p))]

    every = [
        {
            "saying": text.saying,
            "values": text.values,
            "tokens": [index(token) for token in text.tokens],
            "columns": {name: [flat(guesses) for guesses in column] for name, column in text.columns.items()},
        }
        for some in texts.values()
        for text in some
    ]
    return embedded({"words": list(words), "texts": every})


def embedded(value: Any) -> str:
    """JSON that may stand in a page's script element: no `<` can end it."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
