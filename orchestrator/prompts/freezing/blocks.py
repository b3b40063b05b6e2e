"""Units of the rows that are kept: which rows each holds, and where it lies in the manifest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from orchestrator.config.schema import RunConfig
from orchestrator.prompts.freezing.rows import Rows
from orchestrator.prompts.kinds import RowKind
from orchestrator.prompts.policy import PolicyResolver
from orchestrator.prompts.unit_size import unit_size
from workers.splits import HELDOUT, TRAIN
from workers.units import Prompt, UnitPlan, cut, plan_order, unit_of

SHARD_PROMPTS = 65_536
SHARD_TOKENS = 1 << 24
"""What a manifest shard holds at most, but for a unit that is larger alone: 64 MiB of token ids."""


@dataclass(frozen=True)
class Blocks:
    """The units of a split."""

    plan: UnitPlan
    members: list[np.ndarray]
    """By unit: its rows, in order."""
    shards: list[list[int]]
    """By manifest shard: its units. Units of a kind lie together, so that their rows are near in pieces."""
    templates: dict[int, Prompt]
    """By kind of rows: their prompt, without its id and tokens."""


def make_blocks(config: RunConfig, rows: Rows, split: str) -> Blocks:
    """The units of a split's rows: like rows in an order as if shuffled, cut by the sizes that units have, and
    interleaved so that each domain keeps pace with its demand."""
    mine, heldout, policies = rows.kept(split == HELDOUT), split == HELDOUT, PolicyResolver(config)
    templates = {number: prompt_like(config, kind, policies, heldout=heldout) for number, kind, _ in rows.present(mine)}
    groups: dict[str, list[int]] = {}
    for number, template in templates.items():
        groups.setdefault(str(template.kind), []).append(number)
    tokens = target_tokens(rows, mine, templates)
    units, members = [], []
    for _, numbers in sorted(groups.items()):
        inside = np.flatnonzero(np.isin(rows.numbers["kind"][mine], numbers))
        inside = inside[np.lexsort([rows.numbers[key][mine[inside]] for key in ("id1", "id0", "order")])]
        template = templates[numbers[0]]
        texts = template.samples if template.answer_token_ids is None else 1
        for begin, end in cut(tokens[inside], unit_size(config, template.teacher, split, len(inside), texts)):
            members.append(mine[inside[begin:end]])
            units.append(unit_of(-1, template, end - begin, int(tokens[inside[begin:end]].sum())))
    order = plan_order(units, config.demand() if split == TRAIN else {}, config.seed, split)
    index = {block: n for n, block in enumerate(order)}
    plan = UnitPlan(split, tuple(replace(units[block], index=n) for n, block in enumerate(order)))
    shards = [[index[block] for block in shard] for shard in _shards(rows, members)]
    return Blocks(plan, [members[block] for block in order], shards, templates)


def prompt_like(config: RunConfig, kind: RowKind, policies: PolicyResolver, *, heldout: bool) -> Prompt:
    """What all prompts of a kind and a split are, without ids and tokens. A held-out answer is sampled as the
    distributions are (temperature 1, top_p 1, its end not barred), whatever training text is: scores are measured on
    the teacher's own text."""
    how = kind.how(policies)
    sampling = how.sampling
    return Prompt(
        id="",
        domains=kind.domains,
        teacher=how.teacher,
        samples=config.evaluate.samples if heldout else sampling.samples,
        temperature=1.0 if heldout else sampling.temperature,
        top_p=1.0 if heldout else sampling.top_p,
        max_new_tokens=sampling.max_new_tokens,
        prompt_token_ids=[],
        answer_token_ids=[] if kind.is_given(config, heldout=heldout) else None,
        min_new_tokens=0 if heldout else sampling.min_new_tokens,
        stop=sampling.stop,
    )


def target_tokens(rows: Rows, mine: np.ndarray, templates: Mapping[int, Prompt]) -> np.ndarray:
    """The most target tokens of the answers to some rows [rows] (int64)."""
    each = np.full(len(rows.kinds), -1, np.int64)
    for number, template in templates.items():
        if template.answer_token_ids is None:
            each[number] = template.most_target_tokens
    asked = each[rows.numbers["kind"][mine]] if len(mine) else np.zeros(0, np.int64)
    return np.where(asked < 0, rows.numbers["answer_tokens"][mine], asked)


def _shards(rows: Rows, members: list[np.ndarray]) -> list[list[int]]:
    """Blocks by the manifest shard in which they lie."""
    shards: list[list[int]] = []
    prompts = tokens = 0
    for block, own in enumerate(members):
        held = int(rows.numbers["prompt_tokens"][own].sum() + np.maximum(rows.numbers["answer_tokens"][own], 0).sum())
        if not shards or prompts + len(own) > SHARD_PROMPTS or tokens + held > SHARD_TOKENS:
            shards.append([])
            prompts = tokens = 0
        shards[-1].append(block)
        prompts, tokens = prompts + len(own), tokens + held
    return shards
