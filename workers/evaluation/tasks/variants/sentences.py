"""Where sentences begin and end in a prompt, and where its choices stand in it.

Both are found by rules that know little of language, so that what uses them marks its variants as unreviewed.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass

from workers.evaluation.tasks.items import TaskItem

Span = tuple[int, int]
"""First character and the one behind the last."""

_END = re.compile(r"[.!?][\"')\]]*\s+")
_SHORT = re.compile(r"(?:\b(?:Dr|Mr|Mrs|Ms|Prof|St|No|Nos|Fig|Art|Sec|vs|cf|approx|e\.g|i\.e|U\.S)|\b[A-Z])\.$")
"""What ends with a full stop inside a sentence."""

_LABEL = re.compile(r"[A-Z]|[1-9]\d?")

_LEAD = re.compile(r"(?:[\w ]{0,40}:)?[\W_]*\w{0,2}[\W_]*")
"""What stands before the first choice of a list on lines of its own: "Options:", a label, a dash."""


def sentences(text: str) -> list[Span]:
    """Sentences of a text, each without the spaces behind it. The last may lack its end, as a prompt's does."""
    cased, spans, begin = text.lower() != text, [], len(text) - len(text.lstrip())
    for mark in _END.finditer(text):
        following = text[mark.end() : mark.end() + 1]
        inside = _SHORT.search(text[begin : mark.start() + 1]) or (cased and following.islower())
        if following and not inside:
            spans.append((begin, len(text[: mark.end()].rstrip())))
            begin = mark.end()
    if text[begin:].strip():
        spans.append((begin, len(text.rstrip())))
    return spans


@dataclass(frozen=True)
class Listing:
    """The choices of an item as its prompt lists them."""

    spans: tuple[Span, ...]
    """The text of each choice, in their order."""
    labelled: bool
    """Whether the item's choices are the labels (A, B) before those texts, not the texts."""
    start: int | None
    """Where the lines of the list begin; None where it is part of the question's own sentence."""

    def texts(self, prompt: str) -> list[str]:
        """The listed texts."""
        return [prompt[a:b] for a, b in self.spans]

    def rewritten(self, prompt: str, texts: Sequence[str]) -> str:
        """The prompt with other texts in their places."""
        for (a, b), text in sorted(zip(self.spans, texts, strict=True), reverse=True):
            prompt = prompt[:a] + text + prompt[b:]
        return prompt


def listing_of(item: TaskItem) -> Listing | None:
    """Where the choices of an item stand in its prompt; None where they do not, so that their order is not seen."""
    names = [choice.strip() for choice in item.choices]
    labelled = all(_LABEL.fullmatch(name) for name in names)
    spans: list[Span] = []
    for name in names:
        if labelled:
            pattern = rf"(?m)^[ \t]*\(?{name}[).:][ \t]+(\S.*?)[ \t]*$"
        else:
            pattern = rf"(?<!\w)({re.escape(name)})(?!\w)"
        found = list(re.finditer(pattern, item.prompt))
        if not found:
            return None
        spans.append(found[-1].span(1))  # examples before the question may list others
    if not spans or any(a[1] > b[0] for a, b in itertools.pairwise(spans)):
        return None
    line = item.prompt.rfind("\n", 0, spans[0][0]) + 1
    apart = _LEAD.fullmatch(item.prompt, line, spans[0][0]) and item.prompt[:line].strip()
    return Listing(tuple(spans), labelled, line if apart else None)


def stem_of(item: TaskItem) -> str:
    """The prompt as far as its list of choices, all of it where it has none of its own."""
    listing = listing_of(item)
    return item.prompt if listing is None else item.prompt[: listing.start]
