"""The frozen prompts of a split on storage: written once, read by unit."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cluster.storage import Storage, read_buffer
from workers.layout import FIRST_GENERATION, manifest_key, plan_key
from workers.units import Prompt, Unit, UnitPlan

PROMPT_SCHEMA = pa.schema(
    [
        ("unit", pa.uint32()),
        ("id", pa.string()),
        ("domains", pa.list_(pa.string())),
        ("teacher", pa.string()),
        ("samples", pa.uint16()),
        ("temperature", pa.float64()),
        ("top_p", pa.float64()),
        ("max_new_tokens", pa.uint32()),
        ("prompt_token_ids", pa.list_(pa.uint32())),
        ("answer_token_ids", pa.list_(pa.uint32())),
        ("min_new_tokens", pa.uint32()),
        ("stop", pa.list_(pa.string())),
    ]
)


def write_manifest(storage: Storage, plan: UnitPlan, blocks: Sequence[Sequence[Prompt]]) -> None:
    """Freeze a split: its prompts in unit order, one row group a unit, and its plan. Written once."""
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(sink, PROMPT_SCHEMA, compression="zstd") as writer:
        for index, block in enumerate(blocks):
            rows = [{**asdict(p), "unit": index} for p in block]
            writer.write_table(pa.Table.from_pylist(rows, schema=PROMPT_SCHEMA), row_group_size=max(len(rows), 1))
    data = {"split": plan.split, "generation": plan.generation, "units": [asdict(u) for u in plan.units]}
    # The plan is the mark that a split is frozen, so it comes last; a manifest that another writer froze stays.
    storage.write(manifest_key(plan.split, plan.generation), sink.getvalue().to_pybytes())
    if not storage.create(plan_key(plan.split, plan.generation), json.dumps(data).encode()):
        raise ValueError(
            f"prompts: the {plan.split} prompts of this run were frozen otherwise by another process meanwhile"
        )


def read_plan(storage: Storage, split: str, generation: str = FIRST_GENERATION) -> UnitPlan:
    """The frozen plan of a split. Raises FileNotFoundError before prompts were frozen."""
    data = json.loads(storage.read(plan_key(split, generation)))
    units = tuple(Unit(**{**u, "domains": tuple(u["domains"])}) for u in data["units"])
    return UnitPlan(split, units, data["generation"])


class Manifest:
    """Random access to the frozen prompts of a split by unit."""

    def __init__(self, storage: Storage, split: str) -> None:
        local = storage.local_path(manifest_key(split))
        self._file = pq.ParquetFile(local if local is not None else read_buffer(storage, manifest_key(split)))

    def prompts(self, unit: int) -> list[Prompt]:
        rows = self._file.read_row_group(unit, use_threads=False).to_pylist()
        return [_prompt(row) for row in rows]

    def unit_of(self, prompt_uid: str) -> int | None:
        """The unit that holds a prompt, or None if no prompt of the split has that id."""
        table = self._file.read(columns=["unit", "id"], use_threads=False)
        row = pc.index(table["id"], prompt_uid).as_py()
        return None if row < 0 else table["unit"][row].as_py()

    def ids(self) -> list[str]:
        """Ids of all prompts, in unit order."""
        return self._file.read(columns=["id"], use_threads=False)["id"].to_pylist()


def _prompt(row: dict[str, Any]) -> Prompt:
    fields: dict[str, Any] = {k: tuple(v) if k in ("domains", "stop") else v for k, v in row.items() if k != "unit"}
    return Prompt(**fields)
