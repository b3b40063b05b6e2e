"""Whether specialists have the rule or only the words, and whose errors they have: from their answers to tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from orchestrator.config.schema import RunConfig
from orchestrator.config.students import HARD_LABELS, TEACHER, measured_domains
from orchestrator.reporting.measures.tasks import Answered, Answers
from orchestrator.reporting.scores import Interval, Measured
from workers.evaluation.metrics.inheritance import amplification, inheritance
from workers.evaluation.metrics.parrot import EditDrop, Rates, parrot_scores
from workers.evaluation.metrics.resampling import Estimate
from workers.evaluation.tasks.items import TaskAnswer, TaskItem
from workers.evaluation.tasks.sandbox import full_matches


@dataclass(frozen=True, kw_only=True)
class EditReport:
    """What one edit costs in accuracy."""

    items: int
    unreviewed: int
    """Variants whose right answer nobody has looked at."""
    teacher: Measured
    specialist: Measured
    index: Interval
    """The specialist's drop less the teacher's."""


@dataclass(frozen=True, kw_only=True)
class RateReport:
    """How often something is so over variants that change the answer."""

    variants: int
    teacher: Interval
    specialist: Interval
    difference: Interval
    """The specialist's rate less the teacher's."""


@dataclass(frozen=True, kw_only=True)
class ParrotReport:
    """The parrot test of a specialist on the items of its domains."""

    items: int
    """Given items that the index is of."""
    index: Measured
    """What edits cost it in accuracy beyond what they cost its teacher; not finite (null) where no edit counts."""
    low: Measured
    """Lower end of its 95 % bootstrap interval over items."""
    high: Measured
    control: Interval | None
    """The same of its control of hard labels; None where it was not asked."""
    by_edit: dict[str, EditReport]
    flips: RateReport | None
    """Right on both an item and a variant with another answer."""
    stale: RateReport | None
    """The item's answer repeated where the variant's is another."""
    flags: tuple[str, ...]
    """Why it is held to be a parrot, in sentences."""


@dataclass(frozen=True, kw_only=True)
class InheritanceReport:
    """How often a specialist gives its teacher's answer where that is wrong."""

    teacher_wrong: int
    """Items of its domains that the teacher has wrong."""
    specialist: Interval | None
    control: Interval | None
    """Of its control of hard labels."""
    difference: Interval | None
    """The specialist's rate less the control's."""
    note: str


@dataclass(frozen=True, kw_only=True)
class BiasReport:
    """How much swapping names or terms moves the probability of the right answer (of items without choices, whether it
    is given): that with the term as given less that with another in its place."""

    pairs: int
    teacher: Interval
    specialist: Interval
    amplification: Interval
    """The specialist's less the teacher's, paired."""


def bias_reports(config: RunConfig, answers: Answers) -> dict[str, BiasReport]:
    """By specialist that was asked items with names or terms swapped."""
    found = {}
    for name in (*config.specialists, *config.evaluate.models):
        asked = _asked(config, name, answers)
        pairs = [] if asked is None else [(i.variant_of, i.uid) for i in asked[0] if i.edit == "names"]
        if asked is None or not pairs:
            continue
        items, teacher, own, _ = asked
        choices = {item.uid: bool(item.choices) for item in items}
        teacher_P2, own_P2 = (
            np.array([[_score(of[uid], choices[uid]) for uid in pair if uid is not None] for pair in pairs])
            for of in (teacher, own)
        )
        made = amplification(teacher_P2, own_P2, config.evaluate.bootstrap, config.seed)
        of_teacher, of_own, difference = map(Interval.of, (made.teacher, made.student, made.difference))
        found[name] = BiasReport(pairs=made.pairs, teacher=of_teacher, specialist=of_own, amplification=difference)
    return found


def _score(answer: TaskAnswer, choices: bool) -> float:
    return answer.answer_probability if choices else float(answer.correct)


def parrot_reports(config: RunConfig, answers: Answers) -> dict[str, ParrotReport]:
    """By specialist that was asked variants of items."""
    found = {}
    for name in (*config.specialists, *config.evaluate.models):
        asked = _asked(config, name, answers)
        if asked is not None and (report := _parrot(config, *asked)) is not None:
            found[name] = report
    return found


def inheritance_reports(config: RunConfig, answers: Answers) -> dict[str, InheritanceReport]:
    """By specialist that was asked items; variants do not count."""
    found = {}
    for name in (*config.specialists, *config.evaluate.models):
        asked = _asked(config, name, answers)
        if asked is None:
            continue
        items, teacher, own, control = asked
        given = [item for item in items if item.variant_of is None and item.marking not in ("tests", "format")]
        if given:
            made = inheritance(given, teacher, own, control, config.evaluate.bootstrap, config.seed)
            found[name] = InheritanceReport(
                teacher_wrong=made.teacher_wrong,
                specialist=Interval.of_known(made.student),
                control=Interval.of_known(made.control),
                difference=Interval.of_known(made.difference),
                note=made.note,
            )
    return found


_ByUid = dict[str, TaskAnswer]


def _asked(
    config: RunConfig, name: str, answers: Answers
) -> tuple[list[TaskItem], _ByUid, _ByUid, _ByUid | None] | None:
    """The items of a specialist's domains with the answers of teacher, specialist and its control, if that has all."""
    asked = [d for d in answers.get(name, {}) if d in answers.get(TEACHER, {})]
    domains = measured_domains(config, asked)[name]
    pairs = [pair for d in domains for pair in answers[TEACHER][d]]
    if not pairs:
        return None
    items = [_named(item) for item, _ in pairs]
    control = _by_uid(answers.get(f"{name}.{HARD_LABELS}", {}), domains)
    there = control if all(item.uid in control for item in items) else None
    return items, _by_uid(answers[TEACHER], domains), _by_uid(answers[name], domains), there


def _named(item: TaskItem) -> TaskItem:
    """With the task in its uid: two tasks may use the same ones."""
    of = None if item.variant_of is None else f"{item.task}/{item.variant_of}"
    return replace(item, uid=f"{item.task}/{item.uid}", variant_of=of)


def _by_uid(answers: Mapping[str, Sequence[Answered]], domains: Sequence[str]) -> _ByUid:
    return {f"{item.task}/{item.uid}": answer for d in domains for item, answer in answers.get(d, ())}


def _parrot(
    config: RunConfig, items: list[TaskItem], teacher: _ByUid, own: _ByUid, control: _ByUid | None
) -> ParrotReport | None:
    resamples, seed = config.evaluate.bootstrap, config.seed
    found = parrot_scores(items, teacher, own, resamples, seed, matches=full_matches)
    if found is None:
        return None
    beside = None if control is None else parrot_scores(items, teacher, control, resamples, seed, matches=full_matches)
    index = found.index or Estimate(*[float("nan")] * 3)
    return ParrotReport(
        items=found.items,
        index=index.value,
        low=index.low,
        high=index.high,
        control=Interval.of_known(beside.index) if beside is not None else None,
        by_edit={edit: _edit(drop) for edit, drop in found.by_edit.items()},
        flips=_rates(found.flips),
        stale=_rates(found.stale),
        flags=found.flags,
    )


def _edit(drop: EditDrop) -> EditReport:
    index = Interval.of(drop.index)
    return EditReport(
        items=drop.items, unreviewed=drop.unreviewed, teacher=drop.teacher, specialist=drop.student, index=index
    )


def _rates(rates: Rates | None) -> RateReport | None:
    if rates is None:
        return None
    teacher, specialist, difference = map(Interval.of, (rates.teacher, rates.student, rates.difference))
    return RateReport(variants=rates.variants, teacher=teacher, specialist=specialist, difference=difference)
