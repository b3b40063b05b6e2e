"""Whether a student has the rule or only the words: what edits of questions cost it beyond what they cost its teacher.

The drop of an edit is acc(original) - acc(variant) over the items that have that edit. The parrot index is the
student's drop less the teacher's (difference in differences, research/methods.md section 3), so a variant that is hard
for everyone is not held against the student. Pure NumPy; intervals draw items with all their variants.

Legend: P given items, E edits, R resamples.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from workers.evaluation.metrics.resampling import Estimate, ratio, resampled_sums
from workers.evaluation.tasks.items import CHANGES_ANSWER, Edit, TaskAnswer, TaskItem

OUTSIDE_INDEX: tuple[Edit, ...] = ("no_question", "none_of_them")
"""Edits that are reported and not part of the index. Who keeps its score without the question is a parrot, so the drop
means the reverse. Of items whose right choice gave way to "none of the others", 32 of 100 had become wrong (JAMA Netw
Open 2025), so they count only once somebody has looked at them."""

Answers = Mapping[str, TaskAnswer]
"""By the uid of an item."""

Matches = Callable[[list[tuple[str, str]]], list[bool]]
"""From regular expressions and texts to whether each matches all of its text; within bounds of time, which a user's
expression may need."""


@dataclass(frozen=True)
class EditDrop:
    """What one edit costs."""

    items: int
    """Given items that have variants by it."""
    unreviewed: int
    """Variants whose answers nobody has looked at."""
    teacher: float
    student: float
    """Drops of accuracy."""
    index: Estimate
    """The student's drop less the teacher's."""


@dataclass(frozen=True)
class Rates:
    """How often something is so of teacher and student over the variants that change the answer."""

    variants: int
    teacher: Estimate
    student: Estimate
    difference: Estimate
    """The student's rate less the teacher's, paired by item."""


@dataclass(frozen=True)
class ParrotScores:
    """The parrot test of one student."""

    items: int
    """Given items that the index is of."""
    index: Estimate | None
    """Over all edits but those OUTSIDE_INDEX, each item's edit weighing the same; None without any."""
    by_edit: Mapping[Edit, EditDrop]
    flips: Rates | None
    """Right on both the item and its variant; None without edits that change the answer."""
    stale: Rates | None
    """Of items that a model has right, how often it repeats that answer to the variant, where it is wrong. Not of those
    that it has wrong: who says the same nonsense to both repeats no knowledge. None without edits that change the
    answer."""
    flags: tuple[str, ...] = field(default=())
    """Why the student is held to be a parrot, in sentences; empty where it is not."""


def parrot_scores(
    items: Sequence[TaskItem],
    teacher: Answers,
    student: Answers,
    resamples: int,
    seed: int,
    threshold: float = 0.05,
    least_items: int = 10,
    matches: Matches | None = None,
) -> ParrotScores | None:
    """The parrot test from the answers of both models to items and their variants; None without variants.

    A flag is raised where the lower bound of the index is above `threshold`, or that of the stale rate's difference
    above 0, and never of fewer than `least_items` items. With `matches`, who repeats an answer in other words is found
    too, of items marked by regular expressions; without, who repeats its very words. Raises ValueError where an answer
    or the item that a variant was made of is missing, and where a uid is there twice.
    """
    table = _table(items, teacher, student, matches)
    if not table.edits:
        return None
    draws = resampled_sums(table.values, resamples, seed)
    both = np.concatenate([table.values.sum(0)[None], draws])  # what was seen, then the resamples

    def share(name: str, of: str) -> np.ndarray:
        return ratio(both[:, table.columns[name]], both[:, table.columns[of]])

    def rates(kind: str, of: str) -> Rates | None:
        if not table.changing:
            return None
        teacher_R, student_R = (share(f"{kind} {who}", f"{of} {who}") for who in ("teacher", "student"))
        n_t, n_s = (table.having(f"{of} {who}") for who in ("teacher", "student"))
        rates = _estimate(teacher_R, n_t, 0), _estimate(student_R, n_s, 0)
        return Rates(table.changing, *rates, _estimate(student_R - teacher_R, min(n_t, n_s), -1))

    by_edit = {
        edit: EditDrop(
            table.having(f"{edit} items"),
            table.unreviewed[edit],
            float(share(f"{edit} teacher", f"{edit} items")[0]),
            float(share(f"{edit} student", f"{edit} items")[0]),
            _estimate(share(f"{edit} more", f"{edit} items"), table.having(f"{edit} items"), -1),
        )
        for edit in table.edits
    }
    counted = table.having("index items")
    index = _estimate(share("index more", "index items"), counted, -1) if counted else None
    stale = rates("stale", "right")
    flags = (
        _index_flag(index, threshold) if counted >= least_items else (),
        _stale_flag(stale) if table.having("right student") >= least_items else (),
    )
    return ParrotScores(counted, index, by_edit, rates("flip", "changed"), stale, flags[0] + flags[1])


@dataclass
class _Table:
    """What is summed over items."""

    edits: list[Edit]
    unreviewed: dict[Edit, int]
    changing: int
    """Variants that change the answer."""
    columns: dict[str, int]
    values: np.ndarray
    """[P, columns]"""

    def having(self, name: str) -> int:
        """Items that have something in a column."""
        return int(np.count_nonzero(self.values[:, self.columns[name]]))


def _table(items: Sequence[TaskItem], teacher: Answers, student: Answers, matches: Matches | None) -> _Table:
    given = {i.uid: i for i in items if i.variant_of is None}
    variants = [i for i in items if i.variant_of is not None]
    _check(items, given, variants, {"teacher": teacher, "student": student})
    edits = sorted({v.edit for v in variants if v.edit is not None})
    names = [f"{kind} {who}" for kind in ("changed", "right", "flip", "stale") for who in ("teacher", "student")]
    names += [f"{kind} {of}" for kind in (*edits, "index") for of in ("items", "teacher", "student", "more")]
    columns = {name: k for k, name in enumerate(names)}
    rows = {uid: p for p, uid in enumerate(dict.fromkeys(v.variant_of for v in variants))}
    values = np.zeros((len(rows), len(names)))
    of_edit = _counts(variants)
    repeats = {who: _repeats(given, variants, of, matches) for who, of in (("teacher", teacher), ("student", student))}
    for v in variants:
        assert v.variant_of is not None and v.edit is not None
        share = 1 / of_edit[v.variant_of, v.edit]  # an item weighs the same however many variants it has by an edit
        row = values[rows[v.variant_of]]
        drops = {}
        for who, answers in (("teacher", teacher), ("student", student)):
            before, after = answers[v.variant_of], answers[v.uid]
            drops[who] = float(before.correct) - float(after.correct)
            if v.edit in CHANGES_ANSWER:
                found = {"changed": True, "right": before.correct, "flip": before.correct and after.correct}
                found["stale"] = before.correct and not after.correct and v.uid in repeats[who]
                for kind, holds in found.items():
                    row[columns[f"{kind} {who}"]] += share * holds
        drops |= {"items": 1.0, "more": drops["student"] - drops["teacher"]}
        for kind in (v.edit, "index") if v.edit not in OUTSIDE_INDEX else (v.edit,):
            for of, value in drops.items():
                row[columns[f"{kind} {of}"]] += share * value
    unreviewed = {e: sum(v.edit == e and not v.reviewed for v in variants) for e in edits}
    changing = sum(v.edit in CHANGES_ANSWER for v in variants)
    return _Table(edits, unreviewed, changing, columns, values)


def _check(
    items: Sequence[TaskItem],
    given: Mapping[str, TaskItem],
    variants: Sequence[TaskItem],
    answers: Mapping[str, Answers],
) -> None:
    if len({i.uid for i in items}) < len(items):
        raise ValueError("a parrot test takes items of one task: a uid is there twice")
    for v in variants:
        if v.variant_of not in given or v.edit is None:
            raise ValueError(f"{v.uid} is a variant of {v.variant_of} by {v.edit}; both must be there")
        for who, of in answers.items():
            if missing := [uid for uid in (v.uid, v.variant_of) if uid not in of]:
                raise ValueError(f"the {who} has no answer to {missing[0]}; ask it the items and all their variants")


def _counts(variants: Sequence[TaskItem]) -> dict[tuple[str, Edit], int]:
    counts: dict[tuple[str, Edit], int] = {}
    for v in variants:
        assert v.variant_of is not None and v.edit is not None
        counts[v.variant_of, v.edit] = counts.get((v.variant_of, v.edit), 0) + 1
    return counts


def _repeats(
    given: Mapping[str, TaskItem], variants: Sequence[TaskItem], answers: Answers, matches: Matches | None
) -> set[str]:
    """Variants of which a model says what it said of the item."""
    found, unsure = set(), []
    for v in variants:
        item = given[v.variant_of or ""]
        if _plain(answers[item.uid].given) == _plain(answers[v.uid].given):
            found.add(v.uid)
        elif matches is not None and item.marking == "regex":
            unsure.append((v.uid, (item.answer, answers[v.uid].given.strip())))
    if matches is not None and unsure:
        found |= {uid for (uid, _), same in zip(unsure, matches([pair for _, pair in unsure]), strict=True) if same}
    return found


def _plain(text: str) -> str:
    return " ".join(text.split())


def _estimate(values_R: np.ndarray, items: int, least: float) -> Estimate:
    """Of what was seen, then what it is in resamples; a share, or a difference of two (`least` -1) of so many items."""
    return Estimate.of(values_R[0], values_R[1:]).at_least_of_three(items, least, 1)


def _index_flag(index: Estimate | None, threshold: float) -> tuple[str, ...]:
    if index is None or not index.low > threshold:
        return ()
    lost = f"edits of questions cost it {index.value:.1%} more of its answers than its teacher"
    return (f"{lost} ({index.low:.1%} to {index.high:.1%}, flagged above {threshold:.0%})",)


def _stale_flag(stale: Rates | None) -> tuple[str, ...]:
    if stale is None or not stale.difference.low > 0:
        return ()
    own, of = stale.student.value, stale.teacher.value
    return (f"it repeats its old answer to {own:.1%} of questions whose answer has changed, its teacher to {of:.1%}",)
