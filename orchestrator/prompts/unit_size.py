"""How large units are, by teacher and split, and how many of them a replica makes together. Pure.

On a GPU a step of a few texts takes as long as one of a hundred, so units are sized by the slots of a replica: with
four texts for each slot three quarters of them are in use from the first step to the last, with eight five sixths; and
with four nine tenths where the texts of the next units are begun meanwhile (`share_in_use`). What bounds a unit is what
a fault costs: a replica that makes 3,000 tokens a second makes 1M in six minutes, one that makes 10,000 (as `stillhouse
plan` reckons of a 30B mixture over eight H100) in less than two. Given text is one pass for each `score_tokens`, of
which units of so many texts fill several.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import ceil
from typing import Protocol

from orchestrator.config.schema import RunConfig
from workers.splits import HELDOUT
from workers.targets.config import Scheme
from workers.teacher.config import TeacherConfig
from workers.units import Unit, UnitSize

CPU_PROMPTS = 16
"""Of a unit for a teacher on CPUs, whose step takes as long as its texts are many; and the fewest that small domains
are cut into for one on GPUs."""

UNIT_TEXTS = 4
"""Texts for each slot of a replica that one unit holds on GPUs."""

TOGETHER_TEXTS = 8
"""Likewise, of the units that it makes together, unless the next ones are begun meanwhile: then it is `UNIT_TEXTS`."""

UNIT_TOKENS, TOGETHER_TOKENS = 1 << 20, 1 << 22
"""Most target tokens of a unit, and of units made together: what a fault can cost."""

UNITS_PER_REPLICA = 4
"""Units of a kind of prompts for each replica, at least, where these are few: replicas and students begin early."""

_TOGETHER_PER_REPLICA = 2
"""Makings for each replica, at least: the first are committed while the second run."""

_HELD_BYTES = 1 << 32
"""Most targets of one making in a rank, about. The process that leads ranks holds those of two or three: one that is
made, one that is committed."""

_HIDDEN_BYTES = 16 << 10
"""Of the hidden state of a token, at most: 8,192 numbers of two bytes."""

_MOST_VOCABULARY = 1 << 18

_ENTRY_BYTES, _DRAW_BYTES = 6, 8
"""Of an id with its count; and of the number that a multinomial draw is made of."""

_ANY_NUMBER = 1 << 31


class HowKept(Protocol):
    """What a store keeps of a distribution: the settings of targets, or a store's header."""

    @property
    def scheme(self) -> Scheme: ...
    @property
    def draws(self) -> int: ...
    @property
    def top_k(self) -> int: ...
    @property
    def redraws(self) -> int: ...


def unit_size(
    config: RunConfig, teacher: str, split: str, prompts: int | None = None, texts: int | None = None
) -> UnitSize:
    """What a unit of a split holds at most that a teacher is to capture.

    `prompts` is how many there are of the kind that is cut (Prompt.kind: of the same domains, teacher and sampling) in
    that split; None where it is not known, or many. `texts` is how many each of them gets; None: the teacher's
    `sampling.samples`.
    """
    if split == HELDOUT:
        return UnitSize(config.evaluate.heldout.prompts_per_unit)
    settings, targets = config.teachers[teacher], config.targets
    if targets.prompts_per_unit is not None or targets.unit_tokens is not None or not settings.gpus_per_rank:
        few = CPU_PROMPTS if targets.unit_tokens is None else _ANY_NUMBER
        tokens = targets.unit_tokens or (_unit_tokens(targets) if settings.gpus_per_rank else None)
        return UnitSize(targets.prompts_per_unit or few, tokens)
    most = ceil(UNIT_TEXTS * settings.replica_slots / (texts or settings.sampling.samples))
    if prompts is not None:
        most = min(most, max(CPU_PROMPTS, ceil(prompts / (UNITS_PER_REPLICA * settings.replicas[1]))))
    return UnitSize(most, _unit_tokens(targets))


def units_together(
    teacher: TeacherConfig, units: Sequence[Unit], texts_of: Callable[[Unit], int], most_tokens: int
) -> list[list[Unit]]:
    """Units of one split in their order, in groups that a replica makes together (`teacher.units_at_once`).

    `most_tokens` is `together_tokens` of the split's store; one unit may have more.
    """
    number = teacher.units_at_once
    wanted, most = texts_together(teacher), number or 1
    if number is None and teacher.gpus_per_rank:
        most = max(1, len(units) // (_TOGETHER_PER_REPLICA * teacher.replicas[1]))
    groups: list[list[Unit]] = []
    texts = tokens = 0
    for unit in units:
        full = len(groups[-1]) >= most if groups else True
        if number is None:
            full = full or texts >= wanted or tokens + unit.tokens > most_tokens
        if full:
            groups.append([])
            texts = tokens = 0
        groups[-1].append(unit)
        texts, tokens = texts + texts_of(unit), tokens + unit.tokens
    return groups


def texts_together(teacher: TeacherConfig) -> int:
    """Texts at which no further unit is made together with others."""
    return (UNIT_TEXTS if teacher.begins_next else TOGETHER_TEXTS) * teacher.replica_slots


def together_tokens(kept: HowKept, vocabulary: int) -> int:
    """Most target tokens of units made together, by what their store keeps of each."""
    return min(TOGETHER_TOKENS, _held_tokens(kept, vocabulary))


def texts_of(config: RunConfig, unit: Unit, split: str) -> int:
    """How many texts a unit has; where a source of its own asks for other numbers of answers, about."""
    if not unit.generates:
        return unit.prompts
    if split == HELDOUT:
        return unit.prompts * config.evaluate.samples
    domain = config.domains.get(unit.domains[0])
    sampling = config.teachers[unit.teacher].sampling.changed(domain.sampling if domain is not None else None)
    return unit.prompts * sampling.samples


def share_in_use(texts: float, slots: int, *, begins_next: bool) -> float:
    """The share of slots that hold a text while so many texts are made at once, about: fitted to what `slots.py` of
    tests/benchmarks/size_bench counts where all lengths up to the most are equally frequent.

    Half of the slots at the end of a making hold nothing; of the rest a sixteenth, as texts join when an eighth of the
    slots are free. Where the next texts are begun, they fill that end if they are as many as the slots.
    """
    each = texts / slots
    if begins_next:
        return max(min(each, 0.8), _JOINED * (1 - 1 / (6 * each**2)))
    return each / 2 if each <= 1 else _JOINED * texts / (texts + slots)


_JOINED = 15 / 16


def _unit_tokens(kept: HowKept) -> int:
    return min(UNIT_TOKENS, _held_tokens(kept, _MOST_VOCABULARY))


def _held_tokens(kept: HowKept, vocabulary: int) -> int:
    """Of how many tokens the targets find room at once."""
    if kept.scheme in ("full", "hidden"):
        each = 4 * vocabulary if kept.scheme == "full" else _HIDDEN_BYTES
    else:
        entries = kept.top_k if kept.scheme == "topk" else kept.draws * kept.redraws
        each = _ENTRY_BYTES * entries + _DRAW_BYTES * (entries if kept.scheme == "multinomial" else 0)
    return max(1, _HELD_BYTES // each)
