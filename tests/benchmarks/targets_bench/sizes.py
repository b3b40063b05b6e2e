"""Bytes of a store, by column: as a replica writes it, with its log and its vocabulary order."""

from __future__ import annotations

import io
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from cluster.storage import LocalStorage
from workers.splits import TRAIN
from workers.targets.commits.log import Entry
from workers.targets.encoding.arrays import UnitTargets
from workers.targets.encoding.schema import StoreHeader
from workers.targets.store import TargetStore
from workers.teacher.engine import CaptureSpec

RAW_TEXT = ("text", "bytes", "prompt_uid")
"""Columns that hold the text, not the targets: counted apart."""

_RANKED_TOKENS = 1_000_000
"""Target tokens over which the vocabulary order is spread."""


def header_of(spec: CaptureSpec) -> StoreHeader:
    """The header of a store with targets of this kind, as long as a real one."""
    teacher = {"model": "a-teacher", "fingerprint": "f" * 64, "ep_size": 1, "dispatch": "all_to_all", "dtype": "auto"}
    return StoreHeader(
        spec.scheme,
        spec.draws,
        spec.positions,
        spec.precision,
        spec.vocabulary,
        tokenizer="a" * 64,
        chat_template="b" * 64,
        seed=spec.seed,
        teachers={"teacher": teacher},
        top_k=spec.top_k,
    )


def bytes_per_token(units: list[UnitTargets], header: StoreHeader, marginal_V: np.ndarray) -> dict[str, float]:
    """Bytes a target token by column, and of all around the columns; `targets` is all but the raw text."""
    parts: Counter[str] = Counter()
    tokens = 0
    with tempfile.TemporaryDirectory(prefix="stillhouse-") as folder:
        storage = LocalStorage(Path(folder))
        store = TargetStore(storage, TRAIN)
        store.create(header)
        store.vocab_order_files.create(marginal_V)
        parts["vocabulary order"] = 0
        for number, unit in enumerate(units):
            (part,) = store.write_part(number, unit)
            columns = column_bytes(storage.read(part.key))
            parts.update(columns)
            parts["footer"] += part.bytes - sum(columns.values())
            facts = {"teacher": "teacher", "teacher_fingerprint": "f" * 64, "epoch": 1}
            entry = Entry.of(number, (part,), unit, started=1.8e9 + 0.123456, finished=1.8e9 + 9.654321, **facts)
            parts["log entry"] += len(entry.to_bytes())
            tokens += entry.targets
        own = {f"{store.root}/store.json", *(f.key for f in storage.listing(f"{store.root}/parts"))}
        vocab_order = sum(f.bytes for f in storage.listing(store.root) if f.key not in own) / _RANKED_TOKENS
    figures = {name: size / tokens for name, size in parts.items()} | {"vocabulary order": vocab_order}
    raw = sum(figures[name] for name in RAW_TEXT)
    return figures | {"raw text": raw, "targets": sum(figures.values()) - raw}


def column_bytes(data: bytes) -> Counter[str]:
    """Compressed bytes of each column of a Parquet file."""
    metadata = pq.ParquetFile(io.BytesIO(data)).metadata
    sizes: Counter[str] = Counter()
    for group in range(metadata.num_row_groups):
        for c in range(metadata.num_columns):
            column = metadata.row_group(group).column(c)
            sizes[column.path_in_schema.split(".")[0]] += column.total_compressed_size
    return sizes
