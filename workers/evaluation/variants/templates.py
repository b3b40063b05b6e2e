"""Items with slots, of which variants are made whose right answer is another and is known.

One row of a task's file (`id` and `domain` as of any item; the rest is here):

    {"template": "A child of {weight} kg gets {dose} mg per kg. How many mg is that?",
     "slots": {"weight": {"range": [8, 30]}, "dose": [5, 10, 15]}, "answer": "=weight * dose"}

    {"template": "The patient {state} a fever. Is an antipyretic indicated?", "choices": [" yes", " no"],
     "slots": {"state": {"values": ["has", "does not have"], "edit": "negation"}},
     "answer": {"state": {"has": " yes", "does not have": " no"}}}

`slots`: by name a list of values, or an object with `values` (or `range`, whole numbers from the first to the last) and
    `edit`: which edit it is to draw another value: `numbers`, `negation` and `entity` change the answer, `names` does
    not. Without `edit`, numbers are `numbers` and texts `entity`.
`values`: by slot its value in the item itself; else the first one.
`answer`: a text; "=" and arithmetic of slots; or {slot: {value: answer}} with such answers, as deep as need be.
`choices`: what to choose from, with slots in braces; or `wrong`: answers as above that are wrong. In a variant that
    `wrong` serves, the original's right answer stands for the last of them, so that who repeats it is seen.
`form`: how an answer and what is `wrong` are written, " {answer} mg" for one.
`pattern`: a regular expression with {answer} in it that marks what a model writes; else it must be the answer.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite, prod
from string import Formatter
from typing import Any, cast

import numpy as np

from workers.evaluation.tasks.items import CHANGES_ANSWER, Edit, Marking, TaskItem
from workers.evaluation.variants.arithmetic import NoNumber, Number, evaluate, names_in, number_text
from workers.evaluation.variants.edits import Variants, variant_uid
from workers.randomness import generator

SLOT_EDITS: tuple[Edit, ...] = (*CHANGES_ANSWER, "names")
TEMPLATE_KEYS = frozenset({"template", "slots", "values", "answer", "choices", "wrong", "form", "pattern"})

Values = Mapping[str, str | Number]
"""By slot."""

_TRIES = 500
"""Values that are tried for one variant, of which most change the answer in any sensible template."""


@dataclass(frozen=True)
class Slot:
    """One place of a template that may be filled otherwise."""

    values: Sequence[str | Number]
    edit: Edit
    original: str | Number
    """What it is in the item itself."""


@dataclass(frozen=True)
class TaskTemplate:
    """An item, and all that can be made of it by filling its slots otherwise."""

    uid: str
    task: str
    domain: str
    template: str
    slots: Mapping[str, Slot]
    answer: str | Mapping[str, Any]
    choices: tuple[str, ...] = ()
    wrong: tuple[str | Mapping[str, Any], ...] = ()
    form: str = "{answer}"
    pattern: str = ""

    def item(self, seed: int) -> TaskItem:
        """The item itself. Raises ValueError where its values give no answer, or one that is no choice."""
        try:
            return self._filled(self._original(), self.uid, seed, None)
        except NoNumber as error:
            raise ValueError(f"{self.uid}: {error}; give other `values`") from None

    def variants(self, seed: int, edits: Sequence[Edit] = SLOT_EDITS, each: int = 1) -> Variants:
        """Up to `each` variants by each edit, all with other values; the answer is another one just where the edit
        says so. A variant depends on the seed and the uid alone."""
        result, original = Variants(), self.item(seed)
        for edit in edits:
            names = [name for name, slot in self.slots.items() if slot.edit == edit]
            if not names:
                continue
            made: dict[str, TaskItem] = {}
            rng = generator(seed, "template", self.task, self.uid, edit)
            for values in self._others(names, rng):
                if len(made) == each:
                    break
                item = self._variant(values, original, edit, len(made), seed)
                if item is not None and item.prompt not in made:
                    made[item.prompt] = item
            result.items += made.values()
            if not made:
                change = "change" if edit in CHANGES_ANSWER else "leave"
                result.skipped[
                    edit, f"no other values of its slots {change} the answer and keep its choices apart"
                ] += 1
        return result

    def _original(self) -> dict[str, str | Number]:
        return {name: slot.original for name, slot in self.slots.items()}

    def _others(self, names: Sequence[str], rng: np.random.Generator) -> Iterator[dict[str, str | Number]]:
        """Values of all slots with those of `names` drawn; all there are where they are few."""
        shape = [len(self.slots[name].values) for name in names]
        total = prod(shape)
        drawn = rng.permutation(total) if total <= _TRIES else rng.integers(total, size=_TRIES)
        for number in drawn:
            places = np.unravel_index(int(number), shape)
            yield self._original() | {n: self.slots[n].values[int(p)] for n, p in zip(names, places, strict=True)}

    def _variant(self, values: Values, original: TaskItem, edit: Edit, number: int, seed: int) -> TaskItem | None:
        """A variant with these values; None where they do not do what the edit says."""
        try:
            item = self._filled(values, variant_uid(self.uid, edit, number), seed, edit)
        except (NoNumber, _NoChoice):
            return None
        changed = item.answer != original.answer
        return item if item.prompt != original.prompt and changed == (edit in CHANGES_ANSWER) else None

    def _filled(self, values: Values, uid: str, seed: int, edit: Edit | None) -> TaskItem:
        answer, choices = self._written(self.answer, values), tuple(_fill(c, values) for c in self.choices)
        if self.wrong:
            wrong = [self._written(w, values) for w in self.wrong]
            before = self._written(self.answer, self._original())
            if answer != before and before not in wrong:
                wrong[-1] = before
            order = generator(seed, "choices", self.task, uid).permutation(len(wrong) + 1)
            choices = tuple([answer, *wrong][i] for i in order)
        if choices and (answer not in choices or len({c.strip() for c in choices}) < len(choices)):
            raise _NoChoice(f"{self.uid}: its answer {answer!r} must be one of its choices, all different: {choices}")
        marking: Marking = "choice" if choices else "regex" if self.pattern else "exact"
        if marking == "regex":
            answer = self.pattern.replace("{answer}", re.escape(answer))
        prompt, of = _fill(self.template, values), self.uid if edit else None
        return TaskItem(uid, self.task, self.domain, prompt, marking, choices, answer, variant_of=of, edit=edit)

    def _written(self, rule: str | Mapping[str, Any], values: Values) -> str:
        return self.form.replace("{answer}", _resolved(rule, values))


class _NoChoice(ValueError):
    """The right answer is not one of the choices."""


def template_of(row: Mapping[str, Any], uid: str, task: str, domain: str) -> TaskTemplate:
    """A template of a task file's row, whose other keys the caller took out.

    Raises ValueError that names the key, what is wrong with it and what to write.
    """
    if unknown := sorted(set(row) - TEMPLATE_KEYS):
        raise ValueError(f"{uid}: unknown keys {', '.join(unknown)} beside `template`; it may have {_listed()}")
    if not isinstance(row.get("template"), str) or not isinstance(row.get("slots"), dict) or not row["slots"]:
        raise ValueError(f"{uid}: `template` must be a text and `slots` an object with at least one slot")
    given = row.get("values", {})
    if not isinstance(given, dict) or set(given) - set(row["slots"]):
        raise ValueError(f"{uid}: `values` must be an object of slots among {sorted(row['slots'])}")
    slots = {name: _slot(spec, f"{uid}: slot {name!r}", given.get(name)) for name, spec in row["slots"].items()}
    choices, wrong = row.get("choices", []), row.get("wrong", [])
    if not isinstance(choices, list) or not isinstance(wrong, list) or (choices and wrong):
        raise ValueError(f"{uid}: `choices` and `wrong` are lists, of which an item has one at most")
    form, pattern = row.get("form", "{answer}"), row.get("pattern", "")
    if not isinstance(form, str) or "{answer}" not in form:
        raise ValueError(f"{uid}: `form` is {form!r}; it must be a text with {{answer}} in it")
    if not isinstance(pattern, str) or (pattern and ("{answer}" not in pattern or choices or wrong)):
        raise ValueError(f"{uid}: `pattern` must be a text with {{answer}} in it, of an item without choices")
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"{uid}: `pattern` is {pattern!r}, no regular expression: {error}") from None
    for text in (row["template"], *choices):
        _check_braces(text, slots, uid)
    for rule in (row.get("answer"), *wrong):
        _check_rule(rule, slots, uid)
    result = TaskTemplate(
        uid, task, domain, row["template"], slots, row["answer"], tuple(choices), tuple(wrong), form, pattern
    )
    result.item(0)  # what fails of it fails here, before a model is loaded
    return result


def _slot(spec: Any, where: str, original: Any) -> Slot:
    spec = spec if isinstance(spec, dict) else {"values": spec}
    if set(spec) - {"values", "range", "edit"} or ("values" in spec) == ("range" in spec):
        raise ValueError(f"{where} has {sorted(spec)}; give `values` or `range`, and perhaps `edit`")
    values = spec.get("values")
    if "range" in spec:
        ends = spec["range"]
        if not (isinstance(ends, list) and len(ends) == 2 and all(type(e) is int for e in ends) and ends[0] < ends[1]):
            raise ValueError(f"{where}: `range` is {ends!r}; give two whole numbers, the smaller first")
        values = range(ends[0], ends[1] + 1)
    elif not isinstance(values, list) or not all(_fillable(v) for v in values) or len(values) < 2:
        raise ValueError(f"{where}: `values` is {values!r}; give a list of two or more texts or numbers")
    assert values is not None
    numeric = isinstance(values, range) or not any(isinstance(v, str) for v in values)
    edit = spec.get("edit", "numbers" if numeric else "entity")
    if edit not in SLOT_EDITS or (edit == "numbers" and not numeric):
        raise ValueError(f"{where}: `edit` is {edit!r}; give one of {', '.join(SLOT_EDITS)} (numbers of numbers only)")
    if original is not None and original not in values:
        raise ValueError(f"{where}: `values` of the item says {original!r}, which is none of the slot's")
    return Slot(values, cast(Edit, edit), values[0] if original is None else original)


def _fillable(value: Any) -> bool:
    """Whether a prompt can hold it: a finite number, or a text without half a surrogate pair."""
    if type(value) is float:
        return isfinite(value)
    return type(value) is int or (isinstance(value, str) and value.encode(errors="replace").decode() == value)


def _check_braces(text: Any, slots: Mapping[str, Slot], uid: str) -> None:
    """That a text has no placeholder but plain slots, so that filling it looks into nothing."""
    if not _fillable(text) or not isinstance(text, str):
        raise ValueError(f"{uid}: {text!r} is no text")
    try:
        parts = list(Formatter().parse(text))
    except ValueError as error:
        raise ValueError(f"{uid}: {text!r}: {error}; write {{{{ and }}}} for braces") from None
    for _, name, form, conversion in parts:
        if name is not None and (name not in slots or form or conversion):
            raise ValueError(f"{uid}: {{{name}}} is no slot of {sorted(slots)}; write {{{{ and }}}} for braces")


def _check_rule(rule: Any, slots: Mapping[str, Slot], uid: str) -> None:
    """That an answer can be found whatever the slots are."""
    if isinstance(rule, str):
        if rule.startswith("="):
            _check_expression(rule[1:], slots, uid)
        return
    if not isinstance(rule, dict) or len(rule) != 1 or next(iter(rule)) not in slots:
        raise ValueError(
            f"{uid}: an answer is a text, '=' and arithmetic, or {{slot: {{value: answer}}}}, not {rule!r}"
        )
    name, table = next(iter(rule.items()))
    missing = [str(v) for v in slots[name].values if not isinstance(table, dict) or str(v) not in table]
    if missing:
        raise ValueError(f"{uid}: the answers by {name!r} lack {', '.join(missing[:5])}")
    for inner in table.values():
        _check_rule(inner, slots, uid)


def _check_expression(expression: str, slots: Mapping[str, Slot], uid: str) -> None:
    try:
        names = names_in(expression)
    except ValueError as error:
        raise ValueError(f"{uid}: {error}") from None
    numeric = {n for n, slot in slots.items() if not any(isinstance(v, str) for v in slot.values)}
    if bad := sorted(names - numeric):
        raise ValueError(f"{uid}: {expression!r} speaks of {', '.join(bad)}, which is no slot with numbers")


def _resolved(rule: str | Mapping[str, Any], values: Values) -> str:
    if isinstance(rule, str):
        if not rule.startswith("="):
            return rule
        return number_text(evaluate(rule[1:], {n: v for n, v in values.items() if not isinstance(v, str)}))
    name, table = next(iter(rule.items()))
    return _resolved(table[str(values[name])], values)


def _fill(text: str, values: Values) -> str:
    return text.format_map({n: v if isinstance(v, str) else number_text(v) for n, v in values.items()})


def _listed() -> str:
    return ", ".join(sorted(TEMPLATE_KEYS))
