"""What a student's architecture lets be done faster than its own forward does it; tried, since nothing else tells.

The fused loss multiplies by the head's weight itself. Whatever else an architecture does to its logits must be known
here, or the loss would be that of another model: where head and `LogitMap` give other logits than the model's own
forward, the model makes its logits itself, all at once, and the run says so. Packed texts must not see each other.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch

from workers.logit_map import logit_map
from workers.student.models.packed_attention import arguments, implementation

_PROBE = [[5, 3, 8, 1, 4], [2, 7, 1, 6, 2]]
_SAME = {torch.float32: 1e-3}
_ROUNDED = 0.05
"""Of the spread of what is compared: what two ways may differ, more where numbers are rounded to bfloat16."""


class Abilities(NamedTuple):
    """What can be done with a model."""

    fused: bool
    """Backbone, head's weight and `logit_map` give its own logits."""
    packed: bool
    """Texts in one row give the hidden states that they give alone."""


def tried(model: Any) -> Abilities:
    """What can be done with a model on the device where it is, tried on a few tokens."""
    return Abilities(_can_be_fused(model), _can_be_packed(model))


@contextmanager
def _without_dropout(model: Any) -> Iterator[None]:
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(training)


def _can_be_fused(model: Any) -> bool:
    head = model.get_output_embeddings()
    if not isinstance(head, torch.nn.Linear):
        return False
    ids_BS = _probe(model)
    with _without_dropout(model):
        own = model(input_ids=ids_BS, use_cache=False).logits.float()
        h_BSD = model.get_decoder()(input_ids=ids_BS, use_cache=False).last_hidden_state
        z = torch.nn.functional.linear(h_BSD, head.weight, head.bias).float()
    logit_map(model.config).apply_(z)
    return _same(own, z, model.dtype)


def _can_be_packed(model: Any) -> bool:
    ids_BS, before = _probe(model), model.config._attn_implementation
    lengths, place_S = (ids_BS.shape[1],) * len(ids_BS), torch.arange(ids_BS.shape[1], device=ids_BS.device)
    packed = {"input_ids": ids_BS.reshape(1, -1), "position_ids": place_S.repeat(len(ids_BS))[None]}
    try:
        with _without_dropout(model):
            alone = model.get_decoder()(input_ids=ids_BS, use_cache=False).last_hidden_state.float()
            model.set_attn_implementation(implementation(model.device.type, model.dtype))
            found = model.get_decoder()(**packed, use_cache=False, **arguments(lengths, ids_BS.device))
        return _same(alone, found.last_hidden_state.float().reshape(alone.shape), model.dtype)
    except (NotImplementedError, TypeError, ValueError):
        return False  # this architecture does not know of such an attention, or asks more of it
    finally:
        model.set_attn_implementation(before)


def _probe(model: Any) -> torch.Tensor:
    return torch.tensor(_PROBE, device=model.device) % model.config.get_text_config().vocab_size


def _same(one: torch.Tensor, other: torch.Tensor, dtype: torch.dtype) -> bool:
    return one.shape == other.shape and bool((one - other).abs().max() <= _SAME.get(dtype, _ROUNDED) * one.std())
