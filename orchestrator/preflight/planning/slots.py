"""How many slots of each teacher its units keep in use, and what to change where a GPU would run mostly empty."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from math import ceil
from statistics import median

from orchestrator.config.schema import RunConfig
from orchestrator.preflight.checks import Checked
from orchestrator.preflight.planning.record import RunPlan, TeacherSlots
from orchestrator.prompts.kinds import RowKind, answer_bytes
from orchestrator.prompts.policy import PolicyResolver
from orchestrator.prompts.unit_size import share_in_use, texts_together, together_tokens, unit_size, units_together
from workers.splits import TRAIN
from workers.units import Unit

_STARVES = 0.5
"""Share of slots in use below which the remedy is worth saying."""

_PLANNED_UNITS = 10_000
"""Of a kind of prompts, that the plan looks at; all are alike."""


@dataclass(frozen=True)
class _Kind:
    """Prompts that share units: of the same domains, and answered alike."""

    teacher: str
    domains: tuple[str, ...]
    texts: int
    """Of each prompt."""
    generates: bool


def plan_slots(plan: RunPlan, config: RunConfig, found: Checked, vocabulary: int) -> None:
    """Fill in the slots that training units keep in use, and notes where they starve."""
    policies = PolicyResolver(config)
    prompts: Counter[_Kind] = Counter()
    tokens: Counter[_Kind] = Counter()
    for prompt in found.prompts:
        rows = found.sampled.get(prompt.source, 1.0)
        how = policies.of(prompt.source, prompt.domains)
        texts, answer = RowKind.of(prompt).answers(config, how, answer_bytes(prompt), heldout=False)
        kind = _Kind(how.teacher, prompt.domains, texts, prompt.answer is None)
        prompts[kind] += rows  # type: ignore[assignment]
        tokens[kind] += rows * texts * answer  # type: ignore[assignment]
    for name in config.teachers:
        own = {kind: prompts[kind] for kind in prompts if kind.teacher == name}
        if own:
            plan.slots[name] = _slots(config, name, own, tokens, vocabulary)
            _note_starving(plan, config, name)


def _slots(
    config: RunConfig, name: str, prompts: dict[_Kind, int], tokens: Counter[_Kind], vocabulary: int
) -> TeacherSlots:
    """The means over a teacher's makings, each by its tokens: they are what time goes to."""
    teacher = config.teachers[name]
    kind_of: dict[Unit, _Kind] = {}
    units: list[tuple[float, Unit]] = []
    for number, (kind, rows) in enumerate(prompts.items()):
        each = max(tokens[kind] / rows, 1)
        size = unit_size(config, name, TRAIN, ceil(rows), kind.texts)
        held = max(1, min(size.prompts, ceil(rows), int((size.tokens or each * rows) // each)))
        count = min(ceil(rows / held), _PLANNED_UNITS)
        unit = Unit(number, kind.domains, name, held, ceil(held * each), kind.generates)
        kind_of[unit] = kind
        units += [(i / count, unit) for i in range(count)]
    units.sort(key=lambda item: item[0])  # domains take turns
    groups = units_together(
        teacher,
        [unit for _, unit in units],
        lambda unit: unit.prompts * kind_of[unit].texts,
        together_tokens(config.targets, vocabulary),
    )
    whole = sum(unit.tokens for _, unit in units)
    begins_next = teacher.begins_next and len(groups) > teacher.replicas[1]
    share = texts = 0.0
    for group in groups:
        own = [unit.prompts * kind_of[unit].texts for unit in group]
        weight = sum(unit.tokens for unit in group) / whole
        share += weight * share_in_use(sum(own), teacher.replica_slots, begins_next=begins_next)
        texts += weight * sum(own) / len(own)
    return TeacherSlots(
        slots=teacher.replica_slots,
        in_use=round(share * teacher.replica_slots, 1),
        share=round(share, 3),
        unit_texts=round(texts),
        units_at_once=round(median(map(len, groups))),
    )


def _note_starving(plan: RunPlan, config: RunConfig, name: str) -> None:
    """On a GPU, where a step of few texts takes as long as one of many."""
    teacher, slots = config.teachers[name], plan.slots[name]
    if not teacher.gpus_per_rank or slots.share >= _STARVES:
        return
    key = config.teacher_key(name)
    remedies = []
    if config.targets.prompts_per_unit is not None:
        remedies.append("leave targets.prompts_per_unit out")
    if config.targets.unit_tokens is not None:
        remedies.append("leave targets.unit_tokens out, or raise it")
    if teacher.units_at_once is not None:
        remedies.append(f"leave {key}.units_at_once out, or raise it")
    if teacher.replicas[1] > 1:
        remedies.append(f"lower the most of {key}.replicas {list(teacher.replicas)}, among which the texts are shared")
    remedies.append("raise sampling.samples" if teacher.sampling.temperature else "bring more prompts")
    plan.notes.append(
        f"{key}: about {slots.in_use:g} of {slots.slots} slots of a replica would be in use ({slots.share:.0%}), as it "
        f"makes {slots.units_at_once} units of {slots.unit_texts} texts at once and full slots take "
        f"{texts_together(teacher)}; its GPUs cost the same: {', or '.join(remedies)}"
    )
