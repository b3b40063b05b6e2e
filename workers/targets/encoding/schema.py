"""The format of the target store, version 3: its header and its Arrow schema. FORMAT.md beside it explains the columns.

Legend: R rows (texts), S tokens of all rows, T target positions of all rows, E kept entries of all positions,
A always-kept ids, V vocabulary. A *target position* t holds the teacher's distribution for token t given tokens
before it; a row's target positions are `start` ... its last token.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from workers.targets.config import Precision, Scheme
from workers.targets.encoding.scalars import PROBABILITIES

SCHEMA_VERSION = 3
EXACT_STEPS = 16
"""Units of mass in the weight of one `threshold` draw: how finely its head is written."""


@dataclass(frozen=True)
class StoreHeader:
    """What is true of every shard of a store; kept in `store.json` and in each Parquet file's metadata."""

    scheme: Scheme
    draws: int
    positions: Literal["answer", "all"]
    precision: Precision
    """Of the log-probabilities of a `full` store, or the hidden states of a `hidden` one."""
    vocabulary: int
    """Ids of the tokenizer: distributions are renormalised over ids below this."""
    tokenizer: str
    """Fingerprint of the tokenizer (workers/fingerprint.py)."""
    chat_template: str
    seed: int
    teachers: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Name -> model, fingerprint, ep_size, dispatch, dtype, and engine where it is not transformers."""
    top_k: int = 0
    """Ids that `topk` keeps."""
    redraws: int = 1
    """Independent draws of each distribution."""
    always: tuple[int, ...] = ()
    """Ids whose exact probability is kept at every position; the scheme draws from the others."""
    temperatures: dict[str, float] = field(default_factory=lambda: {"*": 1.0})
    """Of the softmax that is captured: by domain, `*` for those that are not named."""
    answers: dict[str, Any] = field(default_factory=dict)
    """By which rules answers were rejected: the settings of `answers` in force, and the hash of their filter's code.
    Empty where none were (and in stores from before there were any)."""
    prompts: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    """How rows were written, by source: of which domains, whether as chat, with which chat_template_kwargs,
    special_tokens and answer_format. Empty in stores from before it was recorded."""
    version: int = SCHEMA_VERSION

    @property
    def sampled(self) -> bool:
        """Whether entries with counts are kept, rather than what gives every log-probability."""
        return self.scheme not in ("full", "hidden")

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
        """Mass of one count of a drawn id, before always-kept ids are allowed for (see `weights`)."""
        return 1 / (self.draws * self.usual_count)

    def weights(self, entries_T: np.ndarray, counts_E: np.ndarray, always_TA: np.ndarray) -> np.ndarray:
        """What the kept ids weigh [E], float32: probabilities (`topk`), or numbers whose expectation they are.

        Where always-kept ids have mass of their own, the draws of a fixed-sum scheme share what is left of 1.
        """
        if self.scheme == "topk":
            return PROBABILITIES[counts_E].astype(np.float32)
        weights_E = counts_E * self.unit
        if self.always and self.fixed_sum:
            weights_E = weights_E * np.repeat(1 - PROBABILITIES[always_TA].sum(-1), entries_T)
        return weights_E.astype(np.float32)

    def temperature_of(self, domains: Sequence[str]) -> float:
        """The capture temperature of texts of these domains. Raises ValueError where they differ in it."""
        return shared_temperature(self.temperatures, domains)

    def to_json(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)

    @staticmethod
    def from_json(text: str | bytes) -> StoreHeader:
        data = json.loads(text)
        if data.get("version") != SCHEMA_VERSION:
            raise ValueError(
                f"targets: store has format version {data.get('version')}, this program reads {SCHEMA_VERSION}; "
                "capture it again under another run name, or use the version of stillhouse that wrote it"
            )
        if unknown := sorted(data.keys() - StoreHeader.__dataclass_fields__.keys()):
            raise ValueError(
                f"targets: the store's header says {', '.join(unknown)}, which this program does not know; use the "
                "version of stillhouse that wrote it"
            )
        return StoreHeader(**{**data, "always": tuple(data["always"])})

    def differences(self, other: StoreHeader) -> list[str]:
        """Names of the fields in which two headers differ, with the keys where such a field is a mapping."""
        return _differences(asdict(self), asdict(other))


def _differences(mine: dict[str, Any], theirs: dict[str, Any]) -> list[str]:
    names = []
    for name in sorted(n for n in mine.keys() | theirs.keys() if mine.get(n) != theirs.get(n)):
        a, b = mine.get(name), theirs.get(name)
        if isinstance(a, dict) and isinstance(b, dict):
            names += [f"{name}.{inner}" for inner in _differences(a, b)]
        else:
            names.append(name)
    return names


def shared_temperature(temperatures: Mapping[str, float], domains: Sequence[str]) -> float:
    """The one capture temperature of texts of these domains. Raises ValueError where they differ in it."""
    found = {temperatures.get(d, temperatures["*"]) for d in domains} or {temperatures["*"]}
    if len(found) > 1:
        raise ValueError(f"belongs to {' and '.join(domains)}, which are captured at different temperatures")
    return found.pop()


def id_type(vocabulary: int) -> pa.DataType:
    """The narrowest type that holds the ids of a vocabulary."""
    return pa.uint16() if vocabulary <= 1 << 16 else pa.uint32()


def arrow_schema(header: StoreHeader) -> pa.Schema:
    """Columns of a `targets` part; one Parquet row per text."""
    ids = id_type(header.vocabulary)
    fields: list[tuple[str, pa.DataType]] = [
        ("prompt_uid", pa.string()),
        ("sample", pa.uint16()),
        ("text", pa.string()),
        ("bytes", pa.list_(pa.uint16())),  # of `text`, that each token adds
        ("start", pa.uint32()),
        ("prompt", pa.list_(ids)),  # frequency ranks of the tokens before the first target position
    ]
    if header.sampled:
        fields += [
            ("hits", pa.list_(pa.uint16())),  # which kept entry the token of a position is, from 1; 0 is none
            ("misses", pa.list_(ids)),  # frequency ranks of the tokens that are none
            ("entropy", pa.list_(pa.uint8())),  # codes of scalars.py
            ("token_logprob", pa.list_(pa.uint8())),
        ]
        fields += [("always", pa.list_(pa.uint16()))] if header.always else []  # T x A codes
        fields += [("tail", pa.list_(pa.uint16()))] if header.scheme == "topk" else []
        fields += [(f.name, f.type) for f in draw_schema(header)]
    else:
        fields += [
            ("tokens", pa.list_(ids)),
            ("entropy", pa.list_(pa.float32())),
            ("token_logprob", pa.list_(pa.float32())),
        ]
        if header.scheme == "full":
            values = pa.float32() if header.precision == "float32" else pa.float16()
            fields.append(("logprobs", pa.large_list(values)))  # T x V, row-major
        else:
            values = pa.float32() if header.precision == "float32" else pa.uint16()  # bits, as of heads.py
            fields.append(("hidden", pa.large_list(values)))  # T x H, row-major
    return pa.schema(fields)


def draw_schema(header: StoreHeader) -> pa.Schema:
    """Columns of a part with a further draw, and the last ones of a `targets` part."""
    fields = [
        ("num_kept", pa.list_(pa.uint16())),
        ("heads", pa.list_(pa.uint8())),  # bucket (buckets.py) of the first rank of each position that has one
        ("steps", pa.list_(pa.uint8())),  # of each later rank less the one before less 1
        ("bits", pa.list_(pa.uint8())),  # the plain bits of all these, in order
    ]
    if header.scheme == "topk":
        fields += [("codes", pa.list_(pa.uint16()))]
    else:
        fields += [
            ("skips", pa.list_(pa.uint16())),  # counts of the usual size before each one that is not
            ("counts", pa.list_(pa.uint16())),  # those; where all sum to `draws`, each position's first is left out
        ]
    return pa.schema(fields)
