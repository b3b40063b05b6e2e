"""Gathers the rows of some units from the pieces, and writes them as a manifest shard."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from cluster.storage import Storage
from orchestrator.prompts.freezing.blocks import Blocks
from orchestrator.prompts.freezing.pieces import StoredPiece
from orchestrator.prompts.freezing.rows import Rows
from workers.manifest import PROMPT_SCHEMA, UnitPlace, write_shard
from workers.units import Prompt

_TOKENS = ["id", "prompt_token_ids", "answer_token_ids"]


@dataclass(frozen=True)
class Packing:
    """A manifest shard to write; arrays are [rows], unit after unit."""

    split: str
    generation: str
    number: int
    units: list[tuple[int, int]]
    """Index and rows of each."""
    shard: np.ndarray
    """Which piece a row lies in."""
    at: np.ndarray
    """Where in it."""
    template: np.ndarray
    templates: Mapping[int, Prompt]
    """What else its prompt is, and the prompts that are meant."""


def packings(rows: Rows, blocks: Blocks) -> list[Packing]:
    """The manifest shards of a split."""
    found = []
    for number, units in enumerate(blocks.shards):
        own = np.concatenate([blocks.members[unit] for unit in units])
        kinds = rows.numbers["kind"][own]
        found.append(
            Packing(
                blocks.plan.split,
                blocks.plan.generation,
                number,
                [(unit, len(blocks.members[unit])) for unit in units],
                rows.numbers["shard"][own],
                rows.numbers["at"][own],
                kinds,
                {kind: blocks.templates[kind] for kind in np.unique(kinds).tolist()},
            )
        )
    return found


def pack(pieces: Storage, storage: Storage, packing: Packing) -> dict[int, UnitPlace]:
    """Write a manifest shard; returns where its units lie."""
    table = _with_settings(packing, _gathered(pieces, packing))
    return write_shard(storage, packing.split, packing.number, _units(packing, table), packing.generation)


def _units(packing: Packing, table: pa.Table) -> Iterator[tuple[int, pa.RecordBatch]]:
    [whole], begin = table.combine_chunks().to_batches(), 0
    for index, count in packing.units:
        yield index, whole.slice(begin, count)
        begin += count


def _gathered(pieces: Storage, packing: Packing) -> pa.Table:
    """Ids and tokens of the rows, in their order."""
    found, places = [], []
    for shard in np.unique(packing.shard).tolist():
        mine = np.flatnonzero(packing.shard == shard)
        found.append(StoredPiece(pieces, shard).take(packing.at[mine], _TOKENS))
        places.append(mine)
    back = np.argsort(np.concatenate(places))
    return pa.concat_tables(found).combine_chunks().take(back)


def _with_settings(packing: Packing, table: pa.Table) -> pa.Table:
    """The rows as PROMPT_SCHEMA has them."""
    numbers = list(packing.templates)
    which = np.searchsorted(numbers, packing.template)
    templates = [packing.templates[number] for number in numbers]
    given = np.array([t.answer_token_ids is not None for t in templates])[which]
    answers = pa.array(np.arange(table.num_rows), pa.int64(), mask=~given)
    columns = {name: table[name] for name in ("id", "prompt_token_ids")}
    columns["answer_token_ids"] = table["answer_token_ids"].take(answers)
    for field in PROMPT_SCHEMA:
        if field.name not in columns:
            values = [list(v) if isinstance(v := getattr(t, field.name), tuple) else v for t in templates]
            columns[field.name] = pa.array(values, field.type).take(pa.array(which))
    return pa.table({name: columns[name] for name in PROMPT_SCHEMA.names}, PROMPT_SCHEMA)
