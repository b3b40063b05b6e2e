"""Names and terms swapped by a user's table, and the pairs of prompts that differ in nothing else."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from workers.evaluation.tasks.items import TaskItem
from workers.randomness import generator

Terms = Mapping[str, Sequence[str]]
"""By term, what may stand in its place. Of pairs the terms are one group, what replaces them is the other."""


@dataclass(frozen=True)
class Pair:
    """Two prompts that differ in a name or a term, to which the same answer is as good."""

    uid: str
    domain: str
    a: str
    """With a term of the table."""
    b: str
    """With what replaces it."""
    answer: str = ""
    """What follows either, whose log-probability may be compared."""


@dataclass
class Pairs:
    """Pairs, and what no pair was made of."""

    pairs: list[Pair] = field(default_factory=list)
    rejected: list[tuple[str, str]] = field(default_factory=list)
    """Uid and reason."""


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


def counterfactual_pairs(items: Sequence[TaskItem], terms: Terms, seed: int) -> Pairs:
    """Of each item that has words of one side of the table alone, its prompt and that with the other side's words.

    `a` always has the table's terms, so that a mean difference over pairs has a sign. A word of the other side is
    swapped back to its term. Depends on the seed and an item's own uid, not on the others.
    """
    result, back = Pairs(), _back(terms)
    for item in items:
        texts = [item.prompt, item.answer]
        here, there = present("\n".join(texts), terms), present("\n".join(texts), back)
        if bool(here) == bool(there):
            result.rejected.append((item.uid, "words of both sides" if here else "no word of the table"))
            continue
        rng = generator(seed, "counterfactual", item.task, item.uid)
        swaps = replacements(texts, terms if here else back, rng)
        if set(swaps) != set(here or there):
            result.rejected.append((item.uid, "too few alternatives for its words"))
        elif present(item.answer, [*terms, *back]):
            result.rejected.append((item.uid, "a word of the table is in its answer"))
        else:
            a, b = item.prompt, swapped(item.prompt, swaps)
            result.pairs.append(Pair(item.uid, item.domain, *((a, b) if here else (b, a)), item.answer))
    return result


def pairs_of_rows(rows: Iterable[Mapping[str, Any]], domain: str) -> Pairs:
    """Pairs of a user's file: rows of `a` and `b`, and perhaps `id`, `domain` and `answer`."""
    result, uids = Pairs(), set[str]()
    for number, row in enumerate(rows, 1):
        uid = str(row.get("id", f"pair-{number}"))
        if reason := _fault_of(row, uid, uids):
            result.rejected.append((uid, reason))
            continue
        uids.add(uid)
        result.pairs.append(Pair(uid, row.get("domain", domain), row["a"], row["b"], row.get("answer", "")))
    return result


def _fault_of(row: Mapping[str, Any], uid: str, uids: set[str]) -> str | None:
    unknown = sorted(set(row) - {"a", "b", "id", "domain", "answer"})
    if unknown:
        return f"unknown keys {', '.join(unknown)}"
    if not all(isinstance(row.get(side), str) and row[side].strip() for side in ("a", "b")):
        return "a or b is missing, empty or no text"
    if not all(isinstance(row.get(key, ""), str) for key in ("domain", "answer")):
        return "domain or answer is no text"
    if row["a"] == row["b"]:
        return "a and b are the same"
    return "its id was there before" if uid in uids else None


def _back(terms: Terms) -> dict[str, list[str]]:
    """The table the other way round."""
    back: dict[str, list[str]] = {}
    for term, others in terms.items():
        for other in others:
            back.setdefault(other, []).append(term)
    return back


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
