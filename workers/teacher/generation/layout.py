"""Which caches a model's answers grow in: what each of its layers keeps of a text, as its own cache has it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

from workers.teacher.engines.families import why_not_generate
from workers.teacher.generation.slots import SlotCache
from workers.teacher.generation.states import StateLayer, keeps_nothing, keeps_states
from workers.two_part_model import TwoPartModel

_PADDING = 8
"""Tokens of padding that are tried: more than convolutions of these layers reach back."""


@dataclass(frozen=True)
class CacheLayout:
    """What is known of a model's cache."""

    layers: Sequence[Any] = ()
    """Of the model's own cache, empty ones. None at all: each keeps keys and values."""

    why_not: str | None = None
    """Why slots cannot hold what some of its layers keep, or None if they can."""

    pads: bool = True
    """Whether prompts of several lengths may be prefilled together, padded: the states of all layers ignore padding."""

    @staticmethod
    def of(model: TwoPartModel) -> CacheLayout:
        """That of a model, tried on a few tokens where layers keep states. Every rank of a group must call it."""
        config = model.model.config
        if (reason := why_not_generate(config.to_dict())) is not None:
            return CacheLayout(why_not=reason)
        layers = DynamicCache(config=config).layers
        if others := sorted({type(layer).__name__ for layer in layers if not _is_held(layer)}):
            kinds = ", ".join(others)
            return CacheLayout(
                why_not=f"{config.model_type} has layers that keep a {kinds}: answers cannot grow in slots"
            )
        layout = CacheLayout(layers)
        if not any(map(keeps_states, layers)):
            return layout
        return CacheLayout(layers, pads=_ignores_padding(model, layout))

    def column_bytes(self, model: TwoPartModel) -> int:
        """Bytes of the keys and values of one token in all layers of this rank, from a pass over two tokens; 0 where
        none keeps any. Every rank of a group must call it."""
        cache, ids_BS = self.new(1, 3), torch.tensor([[5, 3]])
        cache.first = [0]
        model.body(ids_BS, torch.ones_like(ids_BS), cache, torch.tensor([[0, 1]]))
        return sum(t.numel() * t.element_size() for t in cache.tensors()) // cache.columns

    def new(self, slots: int, columns: int, most: int | None = None) -> SlotCache:
        """An empty cache of so many slots, and rows times columns of memory at most."""
        return SlotCache(slots, columns, self.layers, most)


def _is_held(layer: Any) -> bool:
    return type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) or keeps_nothing(layer) or keeps_states(layer)


def _ignores_padding(model: TwoPartModel, layout: CacheLayout) -> bool:
    """Whether padding leaves nothing at all in a convolution's inputs. Models zero what goes into such a layer at
    padding; a bias behind that is there again, and would reach the text."""
    cache = layout.new(1, _PADDING + 2)
    cache.first = [_PADDING]
    ids_BS = torch.tensor([[0] * _PADDING + [5]])
    mask_BS = torch.tensor([[0] * _PADDING + [1]])
    model.body(ids_BS, mask_BS, cache, torch.zeros_like(ids_BS))
    return not any(state.any() for layer in cache.layers if isinstance(layer, StateLayer) for state in layer.padding())
