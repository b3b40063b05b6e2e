"""Pages of a few texts: what `targets show --html` and `ask --html` write."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from orchestrator.render.jinja import filled
from orchestrator.render.page.assets import own_assets
from orchestrator.render.page.tokens import Guesses, TokenText, guesses_json

_FULL_SURPRISE = 5.0
"""Nats at which a token is coloured in full."""


def token_page(title: str, about: str, texts: Sequence[TokenText]) -> str:
    """One page that needs nothing else."""
    return filled(
        "texts.html.j2", title=title, about=about, texts=texts, guesses=guesses_json({"": texts}), **own_assets()
    )


def stored_page(found: Mapping[str, Any]) -> str:
    """A stored text, as `stores.show.show_text` finds it: coloured by how surprising its teacher finds each token."""
    positions = found["positions"]
    numbers = [p.get("exact", p["stored"]) for p in positions]
    columns: dict[str, Guesses] = {"stored": [_guesses(p["stored"], found["top"]) for p in positions]}
    if any("exact" in p for p in positions):
        columns["teacher"] = [_guesses(p["exact"], found["top"]) for p in positions]
    left = found["tokens"] - found["start"] - len(positions)
    text = TokenText(
        title=found["prompt_uid"],
        note=f"sample {found['sample']} of unit {found['unit']}, by {found['teacher']}; {left:,} more positions",
        before=found["text"].encode()[: found["target_byte"]].decode(errors="replace"),
        tokens=[p["behind"] for p in positions],
        shades=[_shade(-n["token_logprob"]) for n in numbers],
        saying="log p {}; entropy {} nats",
        values=[(f"{n['token_logprob']:.2f}", f"{n['entropy']:.2f}") for n in numbers],
        columns=columns,
    )
    about = (
        f"Targets of {found['run']}, {found['split']}, {found['scheme']}: coloured where tokens surprise the teacher."
    )
    return token_page(f"{found['prompt_uid']} in {found['split']}", about, [text])


def answers_page(prompt: str, answers: Mapping[str, Mapping[str, Any]]) -> str:
    """What each model wrote, as `stores.ask.ask_run` has it: coloured by how unsure it was of what it took."""
    texts = [
        TokenText(
            title=name,
            note="" if answer["steps"] else "it ends at once",
            before=prompt,
            tokens=[step["token"] for step in answer["steps"]],
            shades=[round(1 - step["probability"], 2) for step in answer["steps"]],
            saying="taken with {}",
            values=[(f"{step['probability']:.1%}",) for step in answer["steps"]],
            columns={name: [[(t, p) for t, p in step["next"]] for step in answer["steps"]]},
        )
        for name, answer in answers.items()
    ]
    about = "Each model's most probable continuation: coloured where it was less sure."
    return token_page(f"“{prompt}” …", about, texts)


def _guesses(distribution: Mapping[str, Any], top: int) -> list[tuple[str, float]]:
    return [(text, round(weight, 5)) for _, text, weight in distribution["ids"][:top]]


def _shade(surprise: float) -> float:
    return round(min(max(surprise, 0.0) / _FULL_SURPRISE, 1.0), 2)
