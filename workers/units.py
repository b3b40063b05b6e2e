"""Prompts and units: what is to be captured, in which order, frozen before capture starts.

A *unit* is a fixed block of prompts of one domain set, one teacher and one kind of work. It is the grain of teacher
work, of commit, and of what a fault can cost. The *unit plan* gives units their index; plan order is the order.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

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

    def given(self) -> UnitPlan:
        """Those of them whose answers were given, not made by a teacher; a unit has answers of one kind."""
        return replace(self, units=tuple(unit for unit in self.units if not unit.generates))

    def of_domain(self, domain: str) -> list[int]:
        """Indices of the units that hold prompts of a domain, in plan order."""
        return [u.index for u in self.units if domain in u.domains]

    @property
    def domains(self) -> list[str]:
        return sorted({d for u in self.units for d in u.domains})


def order_key(seed: int, prompt_uid: str) -> int:
    """Where a prompt stands among those of its kind (64 bits): as if shuffled, and whatever the others are."""
    return int.from_bytes(hashlib.blake2b(f"{seed}\x1fplan\x1f{prompt_uid}".encode(), digest_size=8).digest(), "big")


def cut(tokens: np.ndarray, size: UnitSize) -> list[tuple[int, int]]:
    """Begin and end of the blocks of prompts in their order, by the target tokens of each [prompts]; a prompt that is
    larger than a unit makes one alone."""
    blocks, begin, sums = [], 0, np.cumsum(tokens)
    while begin < len(tokens):
        end = min(begin + size.prompts, len(tokens))
        if size.tokens is not None:
            before = int(sums[begin - 1]) if begin else 0
            end = min(end, max(int(np.searchsorted(sums, before + size.tokens, side="right")), begin + 1))
        blocks.append((begin, end))
        begin = end
    return blocks


def plan_order(blocks: Sequence[Unit], demand: Mapping[str, float], seed: int, split: str) -> list[int]:
    """The order of blocks in a plan: shuffled by seed, interleaved so that each domain keeps pace with its demand.

    `demand` is the number of target tokens that the specialists ask of each domain. A domain nobody asks for goes last.
    """
    shuffled = generator(seed, "plan-order", split).permutation(len(blocks)).tolist()
    queues = {
        d: deque(i for i in shuffled if d in blocks[i].domains) for d in sorted({d for b in blocks for d in b.domains})
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
        for d in blocks[chosen].domains:
            served[d] += blocks[chosen].tokens
    return order


def build_units(
    prompts: Iterable[Prompt], demand: Mapping[str, float], sizes: Mapping[str, UnitSize], seed: int, split: str
) -> tuple[UnitPlan, list[list[Prompt]]]:
    """The plan of some prompts that are at hand, and the prompts of each unit. `demand` as in `plan_order`; `sizes` are
    those of units by teacher."""
    groups: dict[str, list[Prompt]] = {}
    for prompt in sorted(prompts, key=lambda p: (order_key(seed, p.id), p.id)):
        groups.setdefault(str(prompt.kind), []).append(prompt)
    blocks = [
        group[begin:end]
        for _, group in sorted(groups.items())
        for begin, end in cut(np.array([p.most_target_tokens for p in group]), sizes[group[0].teacher])
    ]
    units = [unit_of(-1, block[0], len(block), sum(p.most_target_tokens for p in block)) for block in blocks]
    order = plan_order(units, demand, seed, split)
    return UnitPlan(split, tuple(replace(units[i], index=n) for n, i in enumerate(order))), [blocks[i] for i in order]


def unit_of(index: int, prompt: Prompt, prompts: int, tokens: int) -> Unit:
    """A unit of so many prompts like one, with so many target tokens."""
    domains = tuple(sorted(prompt.domains))
    return Unit(index, domains, prompt.teacher, prompts, tokens, prompt.answer_token_ids is None)
