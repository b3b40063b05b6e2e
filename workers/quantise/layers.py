"""Which of a model's weights a rounding means, and rounding them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from workers.quantise.config import QuantisedWeights, RoundingConfig
from workers.quantise.lattice import Form, on_lattice


def quantised_weights(causal_lm: Any, rounding: RoundingConfig) -> QuantisedWeights:
    """The weights of a transformers model that `rounding` puts on a lattice; the model may be without memory, or hold
    only parts of its weights.

    Raises ValueError, beginning with the name of a setting of it, where a name means no layer, groups do not divide a
    width, or nothing would be rounded.
    """
    linear, ends = dict(_linear_layers(causal_lm)), dict(_embeddings(causal_lm))
    rounding.check_layers({name: module.in_features for name, module in linear.items()})
    found = {f"{name}.weight": rounding.format for name in linear if not rounding.keeps(name)}
    if rounding.embeddings is not None:
        for name, module in ends.items():
            rounding.check_rows(f"{name} has rows of", _width(module))
            found[f"{name}.weight"] = rounding.embeddings
    return QuantisedWeights(rounding.format, rounding.embeddings, rounding.keep, found)


def forms(causal_lm: Any, weights: Mapping[str, str]) -> dict[nn.Parameter, Form]:
    """The parameters of a model behind names of weights; one with several names comes once."""
    parameters = dict(causal_lm.named_parameters(remove_duplicate=False))
    return {parameters[name]: form for name, form in weights.items()}  # type: ignore[misc]


@torch.no_grad()
def round_weights(causal_lm: Any, rounding: RoundingConfig) -> QuantisedWeights:
    """Put a loaded model's weights on the lattice, in place. Raises ValueError as `quantised_weights` does."""
    found = quantised_weights(causal_lm, rounding)
    for parameter, form in forms(causal_lm, found.weights).items():
        parameter.copy_(on_lattice(parameter, form))
    return found


def _linear_layers(causal_lm: Any) -> Iterator[tuple[str, nn.Linear]]:
    """The linear layers of the decoder's layers, by full name."""
    layers, whole = getattr(causal_lm.get_decoder(), "layers", None), dict(causal_lm.named_modules())
    for prefix in [name for name, module in whole.items() if module is layers]:
        inside = {name: module for name, module in whole.items() if name.startswith(f"{prefix}.")}
        yield from ((name, module) for name, module in inside.items() if isinstance(module, nn.Linear))


def _embeddings(causal_lm: Any) -> Iterator[tuple[str, nn.Module]]:
    """The embeddings of ids, and the head, by full name."""
    ends = (causal_lm.get_input_embeddings(), causal_lm.get_output_embeddings())
    yield from ((name, module) for name, module in causal_lm.named_modules() if any(module is end for end in ends))


def _width(module: Any) -> int:
    """Numbers of a row of the embeddings or the head."""
    return module.in_features if isinstance(module, nn.Linear) else module.embedding_dim
