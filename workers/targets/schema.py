"""The format of the target store, version 2: its header and its Arrow schema. FORMAT.md beside it explains the columns.

Legend: R rows (texts), S tokens of all rows, T target positions of all rows, E kept entries of all positions,
V vocabulary. A *target position* t holds the teacher's distribution for token t given tokens before it; a row's
target positions are `start` ... its last token.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import pyarrow as pa

from workers.targets.config import Scheme

SCHEMA_VERSION = 2
EXACT_STEPS = 16
"""Units of mass in the weight of one `threshold` draw: how finely its head is written."""


@dataclass(frozen=True)
class StoreHeader:
    """What is true of every shard of a store; kept in `store.json` and in each Parquet file's metadata."""

    scheme: Scheme
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

    @property
    def sampled(self) -> bool:
        """Whether entries with counts are kept, rather than every log-probability."""
        return self.scheme != "full"

    @property
    def fixed_sum(self) -> bool:
        """Whether the counts of a position always sum to `draws`."""
        return self.scheme in ("systematic", "multinomial")

    @property
    def usual_count(self) -> int:
        """The count of most entries: that of one draw."""
        return EXACT_STEPS if self.scheme == "threshold" else 1

    @property
    def unit(self) -> float:
        """Mass of one count: an entry's weight is its count times this."""
        return 1 / (self.draws * self.usual_count)

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
        ("bytes", pa.list_(pa.uint16())),  # of `text`, that each token adds
        ("start", pa.uint32()),
        ("prompt", pa.list_(ids)),  # ranks of the tokens before the first target position
    ]
    if header.sampled:
        fields += [
            ("hits", pa.list_(pa.uint16())),  # which kept entry the token of a position is, from 1; 0 is none
            ("misses", pa.list_(ids)),  # ranks of the tokens that are none
            ("entropy", pa.list_(pa.uint8())),  # codes of scalars.py
            ("realised", pa.list_(pa.uint8())),
            ("entries", pa.list_(pa.uint16())),
            ("deltas", pa.list_(ids)),  # of ranks, ascending within a position; the first is absolute, others less 1
            ("skips", pa.list_(pa.uint16())),  # counts of the usual size before each one that is not
            ("counts", pa.list_(pa.uint16())),  # those; where all sum to `draws`, each position's first is left out
        ]
    else:
        values = pa.float32() if header.precision == "float32" else pa.float16()
        fields += [
            ("tokens", pa.list_(ids)),
            ("entropy", pa.list_(pa.float32())),
            ("realised", pa.list_(pa.float32())),
            ("logprobs", pa.large_list(values)),  # T x V, row-major
        ]
    return pa.schema(fields)
