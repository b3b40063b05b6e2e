"""Activation checkpointing: layers that keep their input alone, and are computed again in the backward pass."""

from __future__ import annotations

import math
from typing import Any

from workers.student.layers.decoder import decoder_layers


def recomputed_layers(layers: int, share: float) -> list[int]:
    """Which of a decoder's layers a share of them is, rounded up and spread evenly from the first one on: the last ones
    keep their activations for the shortest time."""
    count = math.ceil(round(share * layers, 6))
    return [i for i in range(layers) if i * count % layers < count]


def recompute(model: Any, share: float) -> None:
    """Let a share of a transformers model's layers be recomputed while it trains. Raises ValueError for an architecture
    that cannot, or cannot in part."""
    if not share:
        return
    kind = model.config.model_type
    if not model.supports_gradient_checkpointing:
        raise ValueError(f"gradient_checkpointing: {share:g}, but {kind} cannot recompute activations; leave it out")
    model.activation_checkpointing_enable()
    if share == 1:
        return
    if not (layers := decoder_layers(model)):
        raise ValueError(
            f"gradient_checkpointing: {share:g}, but {kind} recomputes all of its layers or none; give true or false"
        )
    chosen = recomputed_layers(len(layers), share)
    for i, layer in enumerate(layers):
        layer.gradient_checkpointing = i in chosen
