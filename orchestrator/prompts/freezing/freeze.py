"""Freezing the prompts before capture starts: ids, domains, splits, token ids, units. Broken rows are rejected.

`freeze` runs once, in the Preparer's process; the rows of large sources go through other processes.
"""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from cluster.storage import Storage, open_storage
from orchestrator.config.schema import RunConfig
from orchestrator.prompts.freezing.blocks import make_blocks
from orchestrator.prompts.freezing.packing import packings
from orchestrator.prompts.freezing.pieces import Piece
from orchestrator.prompts.freezing.rows import Rows
from orchestrator.prompts.freezing.shards import Shard, shards_of
from orchestrator.prompts.freezing.work import MakePieces, PackShards, Spread, in_turn, teacher_tokenizers, told
from orchestrator.prompts.lengths import check_students_hold, positions_by_settings
from orchestrator.prompts.policy import PolicyResolver
from orchestrator.prompts.sources import (
    RejectedRow,
    Screened,
    nothing_left,
    read_probes,
    require_given,
    require_prompts,
)
from orchestrator.prompts.tokenizing import TeacherTokenizer
from orchestrator.prompts.unit_size import unit_size
from workers.layout import PROMPTS_REJECTED, PROMPTS_SUMMARY, pieces_folder
from workers.manifest import UnitPlace, write_manifest, write_plan
from workers.splits import HELDOUT, PROBES, TRAIN
from workers.student.models.positions import Positions
from workers.units import Prompt, UnitPlan, build_units


def freeze(
    config: RunConfig,
    run_uri: str,
    screened: Screened | None = None,
    *,
    tokenizers: dict[str, TeacherTokenizer] | None = None,
    positions: Mapping[str, Positions] = {},
    spread: Spread | None = None,
    tell: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Tokenize, split and block all prompts; write manifests, plans and the rows rejected. Returns the summary.

    `screened` are the rows of all sources, and `tokenizers` those of all teachers, where they were read already; else
    they are read here. `positions` are those of specialists that were tried. `spread` does the work of sources that
    come in several shards; without it all is done here, to the same bytes. `tell` is told how far it is. Raises
    ValueError, and has written nothing, where nothing is left or a specialist cannot hold its texts.
    """
    tokenizers = tokenizers or teacher_tokenizers(config)
    storage = open_storage(run_uri)
    shards = [Shard(n, name) for n, name in enumerate(screened)] if screened is not None else shards_of(config)
    if spread is None or len(shards) <= len(config.prompts):
        with tempfile.TemporaryDirectory(prefix="stillhouse-") as folder:
            make = MakePieces(config, folder, tokenizers, screened)
            return _freeze(config, storage, folder, shards, make, tokenizers, positions, told(in_turn, tell))
    try:
        make = MakePieces(config, run_uri)
        return _freeze(config, storage, run_uri, shards, make, tokenizers, positions, told(spread, tell))
    finally:
        storage.delete(pieces_folder())


def _freeze(
    config: RunConfig,
    storage: Storage,
    pieces_uri: str,
    shards: Sequence[Shard],
    make: MakePieces,
    tokenizers: dict[str, TeacherTokenizer],
    positions: Mapping[str, Positions],
    spread: Spread,
) -> dict[str, Any]:
    pieces: list[Piece] = sorted(spread(make, shards), key=lambda piece: piece.shard)
    _require_readable(config, pieces, shards)
    rows = Rows.of(pieces, shards)
    del pieces
    rows.decide(config, {name: tokenizer.longest for name, tokenizer in tokenizers.items()})
    rejected = _in_order(config, list(rows.rejected(open_storage(pieces_uri))))
    trained = rows.present(rows.kept(heldout=False))
    require_prompts(config, {d for _, kind, _ in trained for d in kind.domains}, rejected)
    require_given(config, {d for _, kind, _ in trained if kind.given for d in kind.domains})
    longest = longest_by_domain(config, rows)
    check_students_hold(config, longest, {**positions_by_settings(config), **positions})
    probes = _probes(config, tokenizers)
    summary: dict[str, Any] = {
        "vocabulary": tokenizers[config.first_teacher()].vocabulary,
        "stop_ids": {name: tokenizer.stop_ids for name, tokenizer in tokenizers.items()},
        "longest": longest,
        "asked": _asked(config, rows),
        **_write_rejected(storage, config, rejected),
        "splits": {},
    }
    for split in (TRAIN, HELDOUT):
        summary["splits"][split] = _write_split(config, storage, pieces_uri, rows, split, spread)
    if probes:
        summary["splits"][PROBES] = _write_probes(storage, config, probes)
    storage.write(PROMPTS_SUMMARY, json.dumps(summary).encode())
    return summary


def longest_by_domain(config: RunConfig, rows: Rows) -> dict[str, int]:
    """Tokens of the longest text that may come of each domain's prompts."""
    longest: dict[str, int] = {}
    kept, policies = rows.kept(), PolicyResolver(config)
    for _, kind, heldout in rows.present(kept):
        tokens = rows.text_tokens(config, policies, rows.of_kind(kept, kind, heldout), kind, heldout)
        for domain in kind.domains:
            longest[domain] = max(longest.get(domain, 0), int(tokens.max()))
    return longest


def _require_readable(config: RunConfig, pieces: Sequence[Piece], shards: Sequence[Shard]) -> None:
    """Of every source some row can be read. Raises ValueError naming one of which none can."""
    readable = {shard.source for piece, shard in zip(pieces, shards, strict=True) if piece.rows}
    for name in (n for n in config.prompts if n not in readable):
        mine = [r for piece in pieces for r in piece.rejected if r.source == name]
        raise ValueError(f"prompts.{name}: {nothing_left(config.prompts[name].path, mine)}")


def _in_order(config: RunConfig, rejected: list[RejectedRow]) -> list[RejectedRow]:
    place = {name: n for n, name in enumerate(config.prompts)}
    return sorted(rejected, key=lambda r: (place[r.source], r.file, r.row))


def _write_rejected(storage: Storage, config: RunConfig, rejected: list[RejectedRow]) -> dict[str, Any]:
    """Write the rejected rows; returns how many there are, and why."""
    storage.write(PROMPTS_REJECTED, "".join(json.dumps(vars(r)) + "\n" for r in rejected).encode())
    by_source = {n: _counted(r for r in rejected if r.source == n) for n in config.prompts}
    return {
        "rejected": len(rejected),
        "reasons": _counted(rejected),
        "reasons_by_source": {name: reasons for name, reasons in by_source.items() if reasons},
    }


def _counted(rejected: Iterable[RejectedRow]) -> dict[str, int]:
    """How many rows each reason rejects, the commonest first."""
    return dict(Counter(r.reason for r in rejected).most_common())


def _write_split(
    config: RunConfig, storage: Storage, pieces_uri: str, rows: Rows, split: str, spread: Spread
) -> dict[str, Any]:
    """Freeze a split; returns what it holds."""
    blocks, places = make_blocks(config, rows, split), dict[int, UnitPlace]()
    for found in spread(PackShards(pieces_uri, storage.uri), packings(rows, blocks)):
        places |= found
    write_plan(storage, blocks.plan, [places[unit.index] for unit in blocks.plan.units])
    return _held(blocks.plan)


def _write_probes(storage: Storage, config: RunConfig, probes: list[Prompt]) -> dict[str, Any]:
    sizes = {name: unit_size(config, name, PROBES) for name in config.teachers}
    plan, blocks = build_units(probes, {}, sizes, config.seed, PROBES)
    write_manifest(storage, plan, blocks)
    return _held(plan)


def _held(plan: UnitPlan) -> dict[str, Any]:
    """What a split holds."""
    domains = {d: sum(unit.prompts for unit in plan.units if d in unit.domains) for d in plan.domains}
    return {"units": len(plan.units), "prompts": sum(unit.prompts for unit in plan.units), "domains": domains}


def _probes(config: RunConfig, tokenizers: dict[str, TeacherTokenizer]) -> list[Prompt]:
    """Probes as prompts whose given answer is the one token to rank, by the teacher of their domain. Raises ValueError
    for an answer of no token."""
    rows = read_probes(config.evaluate.probes) if config.evaluate.probes is not None else []
    probes = []
    for number, row in enumerate(rows):
        teacher = config.teacher_of(row["domain"])
        answer_token_ids = tokenizers[teacher].ids(row["answer"], special=False)[:1]
        if not answer_token_ids:
            raise ValueError(f"evaluate.probes: the answer of line {number + 1} has no tokens")
        probes.append(
            Prompt(
                id=f"probe-{number:04d}",
                domains=(row["domain"],),
                teacher=teacher,
                samples=1,
                temperature=1.0,
                top_p=1.0,
                max_new_tokens=1,
                prompt_token_ids=tokenizers[teacher].ids(row["prompt"], special=True),
                answer_token_ids=answer_token_ids,
            )
        )
    return probes


def _asked(config: RunConfig, rows: Rows) -> list[dict[str, Any]]:
    """How rows were asked: once for each source, its rows' domains and whether their answer is given."""
    numbers, firsts, counts = np.unique(rows.numbers["kind"][rows.kept()], return_index=True, return_counts=True)
    policies, found = PolicyResolver(config), Counter[tuple[Any, ...]]()
    for i in np.argsort(firsts):
        kind = rows.kinds[numbers[i]]
        found[kind.source, kind.domains, kind.chat, kind.given, kind.how(policies)] += int(counts[i])
    return [
        {
            "source": source,
            "domains": list(domains),
            "given": given,
            "prompts": count,
            "teacher": how.teacher,
            "system_prompt": how.system_prompt,
            "chat": chat,
            "chat_template_kwargs": how.chat_template_kwargs,
            "special_tokens": how.special_tokens,
            "answer_format": how.answer_format,
            "sampling": how.sampling.model_dump(mode="json"),
        }
        for (source, domains, chat, given, how), count in found.items()
    ]
