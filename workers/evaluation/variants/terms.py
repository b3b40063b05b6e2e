"""Names and terms swapped by a user's table."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

Terms = Mapping[str, Sequence[str]]
"""By term, what may stand in its place."""


def checked_terms(terms: Terms, where: str) -> Terms:
    """The table itself. Raises ValueError, which names the place, where a swap by it would not be plain."""
    lower = [t.strip().lower() for t in terms]
    for term, others in terms.items():
        if not term.strip() or isinstance(others, str) or not others or not all(str(o).strip() for o in others):
            raise ValueError(f"{where}: {term!r} needs a list of one or more alternatives, not {others!r}")
        if lower.count(term.strip().lower()) > 1:
            raise ValueError(f"{where}: {term!r} is there twice but for its capitals; join the two lists")
        if both := [o for o in others if o.strip().lower() in lower]:
            raise ValueError(f"{where}: {both[0]!r}, an alternative of {term!r}, is a term too; let it be one of them")
    return terms


def present(text: str, terms: Iterable[str]) -> list[str]:
    """Which terms stand in a text as whole words, in any case."""
    return [t for t in terms if re.search(_whole([t]), text, re.IGNORECASE)]


def replacements(texts: Sequence[str], terms: Terms, rng: np.random.Generator) -> dict[str, str]:
    """For each term that stands in the texts, an alternative that does not and that no other term gets."""
    whole, taken, chosen = "\n".join(texts), set[str](), {}
    for term in sorted(present(whole, terms)):
        free = [o for o in terms[term] if o not in taken and not present(whole, [o])]
        if free:
            chosen[term] = free[int(rng.integers(len(free)))]
            taken.add(chosen[term])
    return chosen


def swapped(text: str, swaps: Mapping[str, str]) -> str:
    """The text with whole words replaced, all at once, each in the case in which it stood."""
    if not swaps:
        return text
    by_lower = {term.lower(): (term, other) for term, other in swaps.items()}

    def other(match: re.Match[str]) -> str:
        term, replacement = by_lower[match[0].lower()]
        return replacement if match[0] == term else _in_case_of(match[0], replacement)

    return re.sub(_whole(swaps), other, text, flags=re.IGNORECASE)


def _whole(terms: Iterable[str]) -> str:
    """A pattern of any of these as whole words, the longest first."""
    ordered = sorted(terms, key=lambda t: (-len(t), t))
    return rf"(?<!\w)(?:{'|'.join(map(re.escape, ordered))})(?!\w)"


def _in_case_of(found: str, replacement: str) -> str:
    """A replacement in the case of what was found: all capitals, a capital first, or as it is."""
    if len(found) > 1 and found.isupper():
        return replacement.upper()
    if found[:1].isupper():
        return replacement[:1].upper() + replacement[1:]
    return replacement[:1].lower() + replacement[1:] if found.islower() else replacement
