"""Where a specialist is farthest from its teacher, token by token: what both hold likely there, side by side."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from orchestrator.config.students import HARD_LABELS
from orchestrator.reporting.scores import Measured
from workers.evaluation.shown_texts import ShownText, shown_text

Texts = dict[str, dict[str, list[ShownText]]]
"""By model and domain."""

_SCHEMA = 1
"""Of texts.json."""

_APART, _RUNNERS_UP, _BEFORE = 3, 3, 8
"""Positions of a text that are named, runners-up of each, and tokens before it."""


@dataclass(frozen=True, kw_only=True)
class Guess:
    """A token that a model holds likely."""

    token: str
    """`␣` is a space."""
    probability: Measured


@dataclass(frozen=True, kw_only=True)
class ApartToken:
    """A position at which a specialist and its teacher are far apart."""

    position: int
    """In the answer, from 0."""
    before: str
    """What stands before it."""
    token: str
    """What stands there."""
    kl: Measured
    """KL(teacher ‖ specialist), nats."""
    teacher: tuple[Guess, ...]
    specialist: tuple[Guess, ...]
    hard_labels: tuple[Guess, ...]
    """Of its control; empty where there is none."""


@dataclass(frozen=True, kw_only=True)
class HardPrompt:
    """A held-out prompt, and how far the model is from the teacher on its texts."""

    prompt: str
    """Its id, for `stillhouse targets show RUN ID --split heldout`."""
    kl: Measured
    tokens: int
    apart: tuple[ApartToken, ...] = ()
    """Where it is farthest, farthest first; empty where its text is not kept token by token."""


def apart_tokens(texts: Texts, name: str, domain: str, prompt: str) -> tuple[ApartToken, ...]:
    """The positions of a prompt's text with the largest KL, largest first; empty where it is not shown."""
    own, control = (_of_prompt(texts, model, domain, prompt) for model in (name, f"{name}.{HARD_LABELS}"))
    if own is None:
        return ()
    order = sorted(range(len(own.kl)), key=lambda i: -own.kl[i])[:_APART]
    return tuple(
        ApartToken(
            position=i,
            before="".join([*own.before, *own.tokens[:i]][-_BEFORE:]),
            token=own.tokens[i],
            kl=own.kl[i],
            teacher=_guesses(own.teacher[i]),
            specialist=_guesses(own.model[i]),
            hard_labels=_guesses(control.model[i]) if control is not None else (),
        )
        for i in order
    )


def texts_json(texts: Texts) -> bytes:
    """All texts that are shown, whole, by model and domain."""
    found = {m: {d: [asdict(text) for text in some] for d, some in by.items()} for m, by in texts.items()}
    return json.dumps({"schema": _SCHEMA, "models": found}, ensure_ascii=False).encode()


def texts_from_json(data: bytes) -> Texts:
    """The inverse of `texts_json`. Raises ValueError for another schema."""
    found = json.loads(data)
    if found.get("schema") != _SCHEMA:
        raise ValueError(f"texts.json has schema {found.get('schema')}, this stillhouse reads {_SCHEMA}")
    return {m: {d: list(map(shown_text, some)) for d, some in by.items()} for m, by in found["models"].items()}


def _of_prompt(texts: Texts, model: str, domain: str, prompt: str) -> ShownText | None:
    return next((text for text in texts.get(model, {}).get(domain, ()) if text.prompt == prompt), None)


def _guesses(guesses: Sequence[tuple[str, float]]) -> tuple[Guess, ...]:
    return tuple(Guess(token=token, probability=p) for token, p in guesses[:_RUNNERS_UP])
