"""The layers of a decoder, whatever its architecture calls them."""

from __future__ import annotations

from typing import Any


def decoder_layers(model: Any) -> list[Any]:
    """Those of a transformers model, from the first one on: modules that transformers can recompute one by one. Empty
    for an architecture whose layers it cannot tell apart."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    found = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    return found if len(found) == model.config.get_text_config().num_hidden_layers else []
