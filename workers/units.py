"""Prompts and units: what is to be captured, in which order, frozen before capture starts.

A *unit* is a fixed block of prompts of one domain set, one teacher and one kind of work. It is the grain of teacher
work, of commit, and of what a fault can cost. The *unit plan* gives units their index; plan order is the order.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from workers.layout import FIRST_GENERATION
from workers.randomness import generator


@dataclass(frozen=True)
class Prompt:
    """One frozen prompt: its token ids and how it is to be answered. `answer_token_ids` None means: generate."""

    id: str
    domains: tuple[str, ...]
    teacher: str
    samples: int
    temperature: float
    top_p: float
    max_new_tokens: int
    prompt_token_ids: list[int]
    answer_token_ids: list[int] | None
    min_new_tokens: int = 0
    stop: tuple[str, ...] = ()

    @property
    def most_target_tokens(self) -> int:
        """Upper bound of the answer's target tokens over all samples."""
        return len(self.answer_token_ids) if self.answer_token_ids is not None else self.samples * self.max_new_tokens

    @property
    def kind(self) -> tuple:
        """What all prompts of a unit share."""
        sampling: tuple = (self.samples, self.temperature, self.top_p, self.max_new_tokens)
        if self.min_new_tokens or self.stop:
            sampling = (*sampling, self.min_new_tokens, self.stop)
        return (tuple(sorted(self.domains)), self.teacher, None if self.answer_token_ids is not None else sampling)


@dataclass(frozen=True)
class Unit:
    """A planned unit, without its prompts. `tokens` is the upper bound of its answers' target tokens."""

    index: int
    domains: tuple[str, ...]
    teacher: str
    prompts: int
    tokens: int
    generates: bool


@dataclass(frozen=True)
class UnitSize:
    """What a unit holds at most. Tokens are the upper bound of its answers' target tokens; None is any number."""

    prompts: int
    tokens: int | None = None


@dataclass(frozen=True)
class UnitPlan:
    """All units of one split in plan order."""

    split: str
    units: tuple[Unit, ...]
    generation: str = FIRST_GENERATION
    """Of prompts and their targets (layout.py)."""

    def of_domain(self, domain: str) -> list[int]:
        """Indices of the units that hold prompts of a domain, in plan order."""
        return [u.index for u in self.units if domain in u.domains]

    @property
    def domains(self) -> list[str]:
        return sorted({d for u in self.units for d in u.domains})


def build_units(
    prompts: Iterable[Prompt], demand: Mapping[str, float], sizes: Mapping[str, UnitSize], seed: int, split: str
) -> tuple[UnitPlan, list[list[Prompt]]]:
    """Blocks of like prompts, shuffled by seed, interleaved so that each domain keeps pace with its demand.

    `demand` is the number of target tokens that the specialists ask of each domain. A domain nobody asks for goes last.
    `sizes` are those of units by teacher. Returns the plan and the prompts of each unit.
    """
    blocks = _blocks(prompts, sizes, seed, split)
    queues = {
        d: deque(i for i, b in enumerate(blocks) if d in b[0].domains)
        for d in sorted({d for b in blocks for d in b[0].domains})
    }
    served = dict.fromkeys(queues, 0.0)
    taken: set[int] = set()
    order: list[int] = []
    while len(order) < len(blocks):
        for queue in queues.values():
            while queue and queue[0] in taken:
                queue.popleft()
        domain = min(
            (d for d in queues if queues[d]),
            key=lambda d: (demand.get(d, 0) <= 0, served[d] / max(demand.get(d, 0), 1e-9), d),
        )
        chosen = queues[domain].popleft()
        taken.add(chosen)
        order.append(chosen)
        tokens = sum(p.most_target_tokens for p in blocks[chosen])
        for d in blocks[chosen][0].domains:
            served[d] += tokens
    ordered = [blocks[i] for i in order]
    return UnitPlan(split, tuple(_unit(i, block) for i, block in enumerate(ordered))), ordered


def _blocks(prompts: Iterable[Prompt], sizes: Mapping[str, UnitSize], seed: int, split: str) -> list[list[Prompt]]:
    groups: dict[tuple, list[Prompt]] = {}
    for prompt in sorted(prompts, key=lambda p: p.id):
        groups.setdefault(prompt.kind, []).append(prompt)
    blocks = []
    for kind in sorted(groups, key=str):
        group = groups[kind]
        order = generator(seed, "plan", split, str(kind)).permutation(len(group))
        shuffled = [group[i] for i in order]
        blocks += _cut(shuffled, sizes[shuffled[0].teacher])
    return [blocks[i] for i in generator(seed, "plan-order", split).permutation(len(blocks))]


def _cut(prompts: Sequence[Prompt], size: UnitSize) -> list[Sequence[Prompt]]:
    """Prompts in their order, cut into blocks; one that is larger than a unit alone makes one."""
    blocks, begin, tokens = [], 0, 0
    for i, prompt in enumerate(prompts):
        tokens += prompt.most_target_tokens
        if i > begin and (i - begin >= size.prompts or (size.tokens is not None and tokens > size.tokens)):
            blocks.append(prompts[begin:i])
            begin, tokens = i, prompt.most_target_tokens
    return [*blocks, prompts[begin:]]


def _unit(index: int, block: Sequence[Prompt]) -> Unit:
    return Unit(
        index,
        tuple(sorted(block[0].domains)),
        block[0].teacher,
        len(block),
        sum(p.most_target_tokens for p in block),
        block[0].answer_token_ids is None,
    )
