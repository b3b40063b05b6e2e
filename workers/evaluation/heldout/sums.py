"""What is kept of a model's scores on a unit: sums over groups of its target positions, never the positions.

Groups are texts (means, and intervals over prompts), and bins of confidence, of the teacher's entropy and of position
(calibration, and curves). All are sums, so units add up, in whatever order they are scored.

Legend: T target positions, G groups.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

By = Literal["text", "confidence", "entropy", "position"]

TOP = 16
"""Ids whose overlap is counted."""

MOST_CONFIDENCE_BINS = 4096
"""Of a unit and a domain. A unit with fewer target positions has a bin for each, so that its calibration error is
exact; of a larger one, neighbours share a bin."""

ENTROPY_BIN = 0.25
"""Nats of the teacher's entropy that a bin holds."""
MOST_ENTROPY_BINS = 48
"""The last one holds all that is beyond."""

TEMPERATURES = (0.5, 0.65, 0.8, 0.9, 1.1, 1.3, 1.6, 2.0, 2.5)
"""By which a model's logits are divided beside 1, to see which would bring it nearest to its teacher."""

TEMPERED = tuple(f"kl_at_{temperature:g}" for temperature in TEMPERATURES)

SUMMED = (
    *("kl", "reverse_kl", "tv", "agree", "overlap", "overlap_mass", "nll", "entropy", "model_entropy"),
    *("confidence", "teacher_at_top", "hit", "brier"),
)
SCHEMA = pa.schema(
    [
        ("domain", pa.string()),
        ("by", pa.string()),
        ("prompt_uid", pa.string()),  # of a text, else empty
        ("bin", pa.uint32()),  # of entropy and position, else 0
        ("tokens", pa.uint32()),
        *((name, pa.float64()) for name in (*SUMMED, *TEMPERED)),
        ("truth_tokens", pa.uint32()),  # positions at which the truth is known
        ("truth_excess", pa.float64()),  # KL(truth || model) - KL(truth || teacher), summed over them
    ]
)


@dataclass
class TokenScores:
    """What one model did at each target position of some texts, flat [T]."""

    kl: np.ndarray
    """KL(t || q) in nats, t exact."""
    reverse_kl: np.ndarray
    """KL(q || t) in nats."""
    tv: np.ndarray
    """Total variation, half the sum of |t - q|: the share of tokens that speculative decoding would reject."""
    agree: np.ndarray
    """1 where argmax t = argmax q."""
    overlap: np.ndarray
    """Share of the teacher's TOP most probable ids that are among the model's."""
    overlap_mass: np.ndarray
    """What the teacher gives those that are."""
    nll: np.ndarray
    """-log q of the token that stands there."""
    entropy: np.ndarray
    """Of t, in nats."""
    model_entropy: np.ndarray
    """Of q, in nats."""
    confidence: np.ndarray
    """max q."""
    teacher_at_top: np.ndarray
    """t at argmax q."""
    hit: np.ndarray
    """1 where argmax q is the token that stands there."""
    brier: np.ndarray
    """Square of confidence less hit."""
    tempered_kl: np.ndarray
    """[T, len(TEMPERATURES)] KL(t || q') where q' is the softmax of q's logits divided by each."""
    position: np.ndarray
    """Place in the answer, from 0."""
    truth_kl: np.ndarray
    """KL(truth || q), NaN where the truth is not known."""
    truth_teacher_kl: np.ndarray
    """KL(truth || t), NaN likewise."""

    @staticmethod
    def join(parts: Sequence[TokenScores]) -> TokenScores:
        """The positions of all parts, one after another."""
        return TokenScores(**{f.name: np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(TokenScores)})


def sums_of(domain: str, texts: Sequence[tuple[str, TokenScores]]) -> pa.Table:
    """The sums of texts of a domain, each with the uid of its prompt."""
    if not texts:
        return SCHEMA.empty_table()
    scores = TokenScores.join([s for _, s in texts])
    text_T = np.repeat(np.arange(len(texts)), [len(s.kl) for _, s in texts])
    entropy_T = np.minimum(np.maximum(scores.entropy, 0) // ENTROPY_BIN, MOST_ENTROPY_BINS - 1).astype(np.int64)
    position_T = np.log2(scores.position + 1).astype(np.int64)
    grouped = [
        _grouped(domain, "text", scores, text_T, [uid for uid, _ in texts]),
        _grouped(domain, "confidence", scores, _bins_of_confidence(scores)),
        _grouped(domain, "entropy", scores, entropy_T),
        _grouped(domain, "position", scores, position_T),
    ]
    return pa.concat_tables(grouped)


def first_position(bin: int) -> int:
    """The first position of a bin of positions, which are twice as wide from one to the next: 0, 1-2, 3-6, ..."""
    return 2**bin - 1


def to_bytes(table: pa.Table) -> bytes:
    """Sums as a Parquet file."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", write_statistics=False)
    return sink.getvalue().to_pybytes()


def from_bytes(data: bytes) -> pa.Table:
    """The inverse of `to_bytes`."""
    return pq.read_table(io.BytesIO(data), use_threads=False)


def _bins_of_confidence(scores: TokenScores) -> np.ndarray:
    """Bins of equal mass by rising confidence [T]."""
    order_T = np.lexsort([scores.teacher_at_top, scores.confidence])
    T = len(order_T)
    bins_T = np.empty(T, np.int64)
    bins_T[order_T] = np.arange(T) * min(T, MOST_CONFIDENCE_BINS) // T
    return bins_T


def _grouped(
    domain: str, by: By, scores: TokenScores, group_T: np.ndarray, uids: Sequence[str] | None = None
) -> pa.Table:
    """Sums by group; groups without a position are left out."""
    tokens_G = np.bincount(group_T)
    there = np.flatnonzero(tokens_G)
    excess_T = scores.truth_kl - scores.truth_teacher_kl
    known_T = ~np.isnan(excess_T)

    def sums(values_T: np.ndarray) -> np.ndarray:
        return np.bincount(group_T, values_T.astype(np.float64))[there]

    return pa.table(
        {
            "domain": [domain] * len(there),
            "by": [by] * len(there),
            "prompt_uid": [uids[g] for g in there.tolist()] if uids is not None else [""] * len(there),
            "bin": there if uids is None and by != "confidence" else np.zeros(len(there), np.int64),
            "tokens": tokens_G[there],
            **{name: sums(getattr(scores, name)) for name in SUMMED},
            **{name: sums(scores.tempered_kl[:, i]) for i, name in enumerate(TEMPERED)},
            "truth_tokens": sums(known_T).astype(np.uint32),
            "truth_excess": sums(np.where(known_T, excess_T, 0.0)),
        }
    ).cast(SCHEMA)
