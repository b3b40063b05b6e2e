"""How long a text a student's architecture has positions for, from its configuration. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

POSITION_KEYS = ("max_position_embeddings", "n_positions", "max_seq_len", "max_sequence_length", "n_ctx", "seq_length")
"""What architectures call the number of their positions; the first that is there counts."""


@dataclass(frozen=True)
class Positions:
    """The tokens of the longest text that a model is made for."""

    held: int
    key: str = POSITION_KEYS[0]
    """The setting that says so."""
    learned: bool = False
    """Whether each position has weights of its own, so that a longer text is an error and not just unwise."""


def positions_of(model_config: Mapping[str, Any]) -> Positions | None:
    """Of a transformers configuration, or None where it does not say."""
    inner = model_config.get("text_config")
    for place in (model_config, inner if isinstance(inner, Mapping) else {}):
        for key in POSITION_KEYS:
            value = place.get(key)
            if isinstance(value, int) and not isinstance(value, bool) and value > 0:
                return Positions(value, key)
    return None
