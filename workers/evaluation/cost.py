"""What models cost, as records and arithmetic. No torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Speed:
    """Of one model on one machine."""

    parameters: int
    active_parameters: int
    """Those that one token meets: of a mixture of experts, without the experts that it is not sent to."""
    weight_bytes: int
    """Of its weights, as they are loaded."""
    flops_per_token: int
    """Two for each weight that a token is multiplied with; what attention does with earlier tokens is left out."""
    prompt_tokens: int
    batch: int
    new_tokens: int
    first_token_ms: float
    """From a prompt of `prompt_tokens` alone to its first token."""
    tokens_per_s: float
    """Tokens a second, over all of `batch` texts at once, after the first."""
    device: str
    """Name of the GPU, or `cpu` with its threads."""

    def to_bytes(self) -> bytes:
        return json.dumps(asdict(self)).encode()

    @staticmethod
    def from_bytes(data: bytes) -> Speed:
        return Speed(**json.loads(data))


@dataclass(frozen=True)
class RoundedWeights:
    """Of a model whose weights were rounded to fewer bits."""

    parameters: int
    rounded: int
    """Of these, those that were."""
    weight_bytes: int
    """Of what was rounded, with its steps, and all else at 16 bits."""
    weight_bytes_before: int
    """Of all at 16 bits."""

    def to_bytes(self) -> bytes:
        return json.dumps(asdict(self)).encode()

    @staticmethod
    def from_bytes(data: bytes) -> RoundedWeights:
        return RoundedWeights(**json.loads(data))


def dollars_per_million(speed: Speed, dollars_per_hour: Mapping[str, float]) -> float | None:
    """Dollars for a million tokens at the measured tokens a second, by the longest key that is part of the device's
    name, in any case; None where none is."""
    device = speed.device.lower()
    fitting = [key for key in dollars_per_hour if key.lower() in device]
    if not fitting:
        return None
    return dollars_per_hour[max(fitting, key=len)] / 3600 / speed.tokens_per_s * 1e6
