"""Variants of given items whose right answer is known without a judge.

What is drawn depends on the seed, the item's task and uid and the edit, so neither the order of items nor which edits
are asked for changes a variant. Edits that change the answer come of templates (`templates.py`).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from workers.evaluation.tasks.items import Edit, TaskItem
from workers.evaluation.tasks.variants.sentences import listing_of, sentences, stem_of
from workers.evaluation.tasks.variants.terms import Terms, replacements, swapped
from workers.randomness import generator


@dataclass(frozen=True)
class EditSources:
    """What edits put into items."""

    names: Terms = field(default_factory=dict)
    """By name or term, what may stand in its place without another answer being right."""
    clauses: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """By domain, clauses that have nothing to do with any question; of a domain without any, other items' sentences."""
    none: str = "none of the others"
    """The choice that is right where the right one was taken out."""
    neutral: str = "Answer:"
    """What is asked instead of the question. Not empty: some tokenizers begin a text with no token of their own."""


@dataclass
class Variants:
    """What was made of items, and why others were not made."""

    items: list[TaskItem] = field(default_factory=list)
    skipped: Counter[tuple[Edit, str]] = field(default_factory=Counter)
    """By edit and reason, how many items it could not be done to."""


class NotApplicable(Exception):
    """An edit cannot be done to an item; says why."""


_Clauses = Mapping[str, Sequence[tuple[str, str]]]
"""By domain, (uid of the item that it is of, or nothing; clause), in alphabetical order."""

_LEANS = re.compile(
    r"(?:it|its|he|his|she|her|they|their|this|that|these|those|there|then|however|therefore|thus|so|but|and|or|next|"
    r"after|before|finally|also|instead|otherwise|yet|still|later|meanwhile|first|second|third|afterwards)\b",
    re.IGNORECASE,
)
"""How sentences begin that lean upon the one before."""


def variant_uid(item_uid: str, edit: Edit, number: int = 0) -> str:
    """The uid of an item's variant; of several by one edit, they have numbers."""
    return f"{item_uid}~{edit}" + (f"~{number}" if number else "")


def variants_of(items: Sequence[TaskItem], edits: Sequence[Edit], seed: int, sources: EditSources) -> Variants:
    """One variant of each item by each edit that can be done to it.

    Raises ValueError for an edit that only templates give, and for `names` without a table.
    """
    unknown = [e for e in edits if e not in _EDITS]
    if unknown:
        raise ValueError(f"edits: {', '.join(unknown)} is made of templates only; those of plain items: {[*_EDITS]}")
    if "names" in edits and not sources.names:
        raise ValueError("edits: `names` needs a table of names or terms and what may replace each")
    result, clauses = Variants(), _clauses(items, sources)
    for item in items:
        for edit in edits:
            rng = generator(seed, "edit", item.task, item.uid, edit)
            try:
                changed = _EDITS[edit](item, rng, sources, clauses)
            except NotApplicable as reason:
                result.skipped[edit, str(reason)] += 1
                continue
            uid = variant_uid(item.uid, edit)
            result.items.append(replace(changed, uid=uid, variant_of=item.uid, edit=edit))
    return result


def _shuffled(item: TaskItem, rng: np.random.Generator, sources: EditSources, clauses: _Clauses) -> TaskItem:
    """Its listed choices in another order."""
    right, listing = _right_choice(item), listing_of(item)
    if listing is None:
        raise NotApplicable("its prompt does not list its choices, each is scored alone and their order is not seen")
    order = _other_order(len(item.choices), rng)
    texts = listing.texts(item.prompt)
    prompt = listing.rewritten(item.prompt, [texts[i] for i in order])
    if listing.labelled:
        return replace(item, prompt=prompt, answer=item.choices[order.index(right)])
    return replace(item, prompt=prompt, choices=tuple(item.choices[i] for i in order))


def _none_of_them(item: TaskItem, rng: np.random.Generator, sources: EditSources, clauses: _Clauses) -> TaskItem:
    """Without its right choice, and with "none of the others" as the last and right one."""
    right, listing = _right_choice(item), listing_of(item)
    texts = listing.texts(item.prompt) if listing else [c.strip() for c in item.choices]
    if any(re.match(r"(none|all|both|neither|either) ", t, re.IGNORECASE) for t in texts):
        raise NotApplicable("a choice of it speaks of other choices")
    if listing is None and all(len(t) == 1 for t in texts):
        raise NotApplicable("its choices are labels whose texts its prompt does not list")
    none = sources.none[:1].upper() + sources.none[1:] if texts[right][:1].isupper() else sources.none
    prompt = item.prompt
    if listing:
        prompt = listing.rewritten(prompt, [*(t for i, t in enumerate(texts) if i != right), none])
        if listing.labelled:
            return replace(item, prompt=prompt, answer=item.choices[-1], reviewed=False)
    space = item.answer[: len(item.answer) - len(item.answer.lstrip())]
    others = [c for i, c in enumerate(item.choices) if i != right]
    return replace(item, prompt=prompt, choices=(*others, space + none), answer=space + none, reviewed=False)


def _no_question(item: TaskItem, rng: np.random.Generator, sources: EditSources, clauses: _Clauses) -> TaskItem:
    """Its choices, and no question."""
    _right_choice(item)
    listing = listing_of(item)
    if listing is None:
        return replace(item, prompt=sources.neutral)
    if listing.start is None:
        raise NotApplicable("its question and its choices are one sentence")
    return replace(item, prompt=item.prompt[listing.start :])


def _irrelevant(item: TaskItem, rng: np.random.Generator, sources: EditSources, clauses: _Clauses) -> TaskItem:
    """A clause that has nothing to do with it before its question."""
    if item.marking == "tests":
        raise NotApplicable("its prompt is code")
    fit = [(uid, c) for uid, c in clauses.get(item.domain, ()) if uid != item.uid and c not in item.prompt]
    if not fit:
        raise NotApplicable("its domain has no clause of another item, and none is given")
    uid, clause = fit[int(rng.integers(len(fit)))]
    spans = sentences(stem_of(item)) or [(0, 0)]
    at = spans[-1][0]
    prompt = f"{item.prompt[:at]}{clause} {item.prompt[at:]}"
    return replace(item, prompt=prompt, reviewed=item.reviewed and not uid)


def _order(item: TaskItem, rng: np.random.Generator, sources: EditSources, clauses: _Clauses) -> TaskItem:
    """Its sentences before the last one in another order."""
    stem = stem_of(item)
    if item.marking == "tests" or "```" in stem:
        raise NotApplicable("its prompt is code")
    spans = sentences(stem)[:-1]
    texts = [stem[a:b] for a, b in spans]
    if len(set(texts)) < 2:
        raise NotApplicable("it has fewer than two sentences before the last")
    if any(_LEANS.match(t) for t in texts):
        raise NotApplicable("a sentence of it leans upon the one before")
    order = _other_order(len(texts), rng)
    while [texts[i] for i in order] == texts:  # two are the same
        order = _other_order(len(texts), rng)
    prompt = item.prompt
    for (a, b), i in sorted(zip(spans, order, strict=True), reverse=True):
        prompt = prompt[:a] + texts[i] + prompt[b:]
    return replace(item, prompt=prompt, reviewed=False)


def _names(item: TaskItem, rng: np.random.Generator, sources: EditSources, clauses: _Clauses) -> TaskItem:
    """Its names and terms replaced, wherever in it they stand."""
    texts = [item.prompt, item.answer, item.tests, *item.choices]
    swaps = replacements(texts, sources.names, rng)
    prompt = swapped(item.prompt, swaps)
    if prompt == item.prompt:
        raise NotApplicable("its prompt has no term of the table that may be replaced")
    answer, tests = swapped(item.answer, swaps), swapped(item.tests, swaps)
    if item.marking == "regex" and answer != item.answer:
        raise NotApplicable("a term of the table is in its regular expression")
    choices = tuple(swapped(c, swaps) for c in item.choices)
    return replace(item, prompt=prompt, answer=answer, tests=tests, choices=choices)


_EDITS: Mapping[Edit, Callable[[TaskItem, np.random.Generator, EditSources, _Clauses], TaskItem]] = {
    "names": _names,
    "order": _order,
    "irrelevant": _irrelevant,
    "shuffled": _shuffled,
    "none_of_them": _none_of_them,
    "no_question": _no_question,
}


def _clauses(items: Sequence[TaskItem], sources: EditSources) -> _Clauses:
    """What may stand before a question, by domain: what is given, else first sentences of items that have more."""
    found: dict[str, set[tuple[str, str]]] = {d: {("", _closed(c)) for c in own} for d, own in sources.clauses.items()}
    for item in items:
        if not sources.clauses.get(item.domain) and item.marking != "tests":
            stem = stem_of(item)
            spans = sentences(stem)
            if len(spans) > 1 and stem[spans[0][1] - 1] == ".":
                found.setdefault(item.domain, set()).add((item.uid, stem[slice(*spans[0])]))
    return {domain: sorted(own) for domain, own in found.items()}


def _closed(clause: str) -> str:
    """A clause with a full stop behind it."""
    clause = clause.strip()
    return clause if clause.endswith((".", "!", "?")) else f"{clause}."


def _right_choice(item: TaskItem) -> int:
    if item.marking != "choice" or len(item.choices) < 2:
        raise NotApplicable("it has no choices")
    return item.choices.index(item.answer)


def _other_order(n: int, rng: np.random.Generator) -> list[int]:
    """A permutation of n >= 2 things, any but that which changes nothing."""
    while True:
        order = rng.permutation(n).tolist()
        if order != sorted(order):
            return order
