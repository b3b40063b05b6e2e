"""The questions of the smollm2 example are read whole, have one right answer each, and say what Python and arithmetic
say where those can tell."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from orchestrator.prompts.tasks import read_items
from workers.evaluation.tasks.config import TaskConfig
from workers.evaluation.tasks.items import TaskItem
from workers.evaluation.variants.sentences import listing_of

TASKS = Path(__file__).parents[2] / "examples" / "smollm2" / "tasks"
DOMAINS = ("medical", "legal", "code")
ITEMS = {"facts": 48, "lists": 12, "templates": 14}
"""Of a domain, by kind."""

each_domain = pytest.mark.parametrize("domain", DOMAINS)
each_kind = pytest.mark.parametrize("kind", ITEMS)


def read(kind: str, domain: str, **settings: Any) -> list[TaskItem]:
    """Items of a file, with variants; no row may be rejected, and no edit skipped."""
    items, rejected, skipped = read_items(kind, TaskConfig(path=str(TASKS / kind / f"{domain}.jsonl"), **settings))
    assert not rejected and not skipped
    return items


def template_rows(domain: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (TASKS / "templates" / f"{domain}.jsonl").open(encoding="utf-8")]


def filled(domain: str, each: int = 8) -> list[tuple[dict[str, Any], TaskItem]]:
    """Every item of a domain's templates with up to `each` variants by each edit of its slots, beside its row."""
    found = []
    for row in template_rows(domain):
        mine = read("templates", domain, edits=["numbers", "negation", "entity", "names"], variants=each)
        found += [(row, item) for item in mine if row["id"] in (item.uid, item.variant_of)]
    return found


@each_kind
@each_domain
def test_all_rows_are_items_with_one_right_choice(kind: str, domain: str) -> None:
    items = read(kind, domain)
    assert len(items) == ITEMS[kind] and {item.domain for item in items} == {domain}
    for item in items:
        choices = [choice.strip().casefold() for choice in item.choices]
        assert item.marking == "choice" and item.choices.count(item.answer) == 1
        if kind != "templates":  # a negation has two
            assert len(item.choices) == 4
        if domain != "code":  # where "HELLO" and "hello" differ
            assert len(set(choices)) == len(choices)


def test_ids_and_prompts_are_of_one_item_each() -> None:
    items = [item for kind in ITEMS for domain in DOMAINS for item in read(kind, domain)]
    assert len({item.uid for item in items}) == len(items) == sum(ITEMS.values()) * len(DOMAINS)
    assert len({item.prompt for item in items}) == len(items)


@pytest.mark.parametrize("kind", ["facts", "lists"])
@each_domain
def test_right_choices_are_at_all_places_alike(kind: str, domain: str) -> None:
    places = Counter(item.choices.index(item.answer) for item in read(kind, domain))
    assert set(places.values()) == {ITEMS[kind] // 4} and len(places) == 4


@each_domain
def test_choices_of_a_fact_are_of_like_length(domain: str) -> None:
    """The right one is neither the longest nor the shortest more often than chance explains, so length tells little."""
    items = read("facts", domain)
    for extreme in (max, min):
        alone = [i for i in items if [len(c) for c in i.choices].count(extreme(map(len, i.choices))) == 1]
        hits = sum(len(item.answer) == extreme(map(len, item.choices)) for item in alone)
        assert hits <= len(alone) / 4 + 3 * (len(alone) * 3 / 16) ** 0.5


@each_domain
def test_edits_can_be_done_to_what_they_are_asked_of(domain: str) -> None:
    facts = Counter(item.edit for item in read("facts", domain, edits=["no_question", "irrelevant"]))
    assert facts == {None: 48, "no_question": 48, "irrelevant": 48}
    lists = Counter(item.edit for item in read("lists", domain, edits=["shuffled", "none_of_them"]))
    assert lists == {None: 12, "shuffled": 12, "none_of_them": 12}
    assert all(listing_of(item) is None for item in read("facts", domain))


@each_domain
def test_every_slot_gives_variants_and_the_old_answer_stays_a_choice(domain: str) -> None:
    rows = {row["id"]: row for row in template_rows(domain)}
    edits = Counter()
    items = {item.uid: item for _, item in filled(domain)}
    for item in (i for i in items.values() if i.variant_of is not None):
        original = items[item.variant_of]
        edits[item.edit] += 1
        assert original.answer in item.choices  # so that who repeats it is seen
        assert (item.answer == original.answer) == (item.edit == "names")
        assert set(rows) >= {item.variant_of}
    assert min(edits[edit] for edit in ("numbers", "negation", "entity", "names")) >= 2


@each_domain
def test_answers_of_templates_follow_from_their_rule(domain: str) -> None:
    """Slots are read back off the text, and Python computes."""
    computed = 0
    for row, item in filled(domain):
        if not isinstance(row["answer"], str):
            continue
        pattern, seen = "", set()
        for part in re.split(r"(\{\w+\})", row["template"]):
            name = part[1:-1]
            if part[:1] != "{":
                pattern += re.escape(part)
            else:
                pattern += f"(?P={name})" if name in seen else f"(?P<{name}>.+?)"
                seen.add(name)
        match = re.fullmatch(pattern, item.prompt)
        assert match, (row["template"], item.prompt)
        values = {name: int(text) for name, text in match.groupdict().items() if text.isdecimal()}
        value = eval(row["answer"].removeprefix("="), {}, values)
        assert value == int(value) > 0 and item.answer == row.get("form", "{answer}").format(answer=int(value))
        computed += 1
    assert computed > 50


def test_python_says_what_items_say_of_it() -> None:
    """Expressions are evaluated, and programs run, in facts and in every variant of a template."""
    checked = 0
    for item in [*read("facts", "code"), *(item for _, item in filled("code"))]:
        if match := re.fullmatch(r"In Python, (.+[)\]\d\"].*) (?:gives|returns)", item.prompt):
            value = eval(match[1])
        elif match := re.fullmatch(r"In Python, the type of (.+) is", item.prompt):
            value = type(eval(match[1])).__name__
            assert item.answer == value
        elif "\n" in item.prompt:
            value = outcome(item.prompt)
        else:
            continue
        right = [choice for choice in item.choices if choice == str(value) or meaning(choice) == (type(value), value)]
        assert right == [item.answer], item
        checked += 1
    assert checked > 60


def outcome(program: str) -> Any:
    """What a program prints, or the value that its last line asks for."""
    printed: list[str] = []
    scope: dict[str, Any] = {"print": printed.append}
    exec(program, scope)
    asked = re.search(r"# The value of (.+?) is", program)
    return eval(asked[1], scope) if asked else printed[0]


def meaning(choice: str) -> Any:
    """A choice as a Python value with its type; the text where it is none."""
    try:
        value = eval(choice, {})
    except (NameError, SyntaxError):
        return str, choice
    return type(value), value
