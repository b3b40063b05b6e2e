"""The format of the target store, version 1: its header and its Arrow schema.

Legend: R rows (texts), S tokens of all rows, T target positions of all rows, E kept entries of all positions,
V vocabulary. A *target position* t holds the teacher's distribution for token t given tokens before it; a row's
target positions are `start` ... its last token.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import pyarrow as pa

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class StoreHeader:
    """What is true of every shard of a store; kept in `store.json` and in each Parquet file's metadata."""

    scheme: Literal["systematic", "full"]
    draws: int
    positions: Literal["answer", "all"]
    precision: Literal["float16", "float32"]
    vocabulary: int
    """Ids of the tokenizer: distributions are renormalised over ids below this."""
    tokenizer: str
    """Fingerprint of the tokenizer (workers/fingerprint.py)."""
    chat_template: str
    seed: int
    teachers: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Name -> model, fingerprint, ep_size, dispatch, dtype."""
    capture_temperature: float = 1.0
    version: int = SCHEMA_VERSION

    def to_json(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)

    @staticmethod
    def from_json(text: str | bytes) -> StoreHeader:
        data = json.loads(text)
        if data.get("version") != SCHEMA_VERSION:
            raise ValueError(
                f"targets: store has format version {data.get('version')}, this program reads {SCHEMA_VERSION}"
            )
        return StoreHeader(**data)

    def differences(self, other: StoreHeader) -> list[str]:
        """Names of the fields in which two headers differ."""
        mine, theirs = asdict(self), asdict(other)
        return [name for name in mine if mine[name] != theirs[name]]


def id_type(vocabulary: int) -> pa.DataType:
    """The narrowest type that holds the ids of a vocabulary."""
    return pa.uint16() if vocabulary <= 1 << 16 else pa.uint32()


def arrow_schema(header: StoreHeader) -> pa.Schema:
    """Columns of a `targets` part; one Parquet row per text."""
    ids = id_type(header.vocabulary)
    fields: list[tuple[str, pa.DataType]] = [
        ("prompt_id", pa.string()),
        ("sample", pa.uint16()),
        ("text", pa.string()),
        ("tokens", pa.list_(ids)),
        ("ends", pa.list_(pa.uint32())),  # byte offset in `text` at which each token ends
        ("start", pa.uint32()),
        ("entropy", pa.list_(pa.float16())),  # nats, per target position
        ("realised", pa.list_(pa.float16())),  # log-probability of the token that stands there
    ]
    if header.scheme == "full":
        values = pa.float32() if header.precision == "float32" else pa.float16()
        fields += [("logprobs", pa.large_list(values))]  # T x V, row-major
    else:
        # Ids ascend within a position: the first is absolute, the others are differences.
        fields += [("entries", pa.list_(pa.uint16())), ("deltas", pa.list_(ids)), ("counts", pa.list_(pa.uint16()))]
    return pa.schema(fields, metadata={"stillhouse": header.to_json()})
