"""Answers of a model to some prompts, sampled for measuring: not targets, which the teacher pool makes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from workers.streaming.layered_model import Call, LayeredModel


@torch.no_grad()
def continued(model: LayeredModel, asked: Sequence[tuple[list[list[int]], int]], tokens: int) -> list[list[list[int]]]:
    """Of each list of prompts, with its seed, every prompt with up to `tokens` more, sampled at temperature 1 until a
    token that ends a text. Lists do not change each other's answers: they share the reading of the model's layers."""
    batches = [_Batch(model, prompts, seed) for prompts, seed in asked]
    for _ in range(tokens):
        live = [batch for batch in batches if batch.live]
        if not live:
            break
        calls = [batch.begin() for batch in live]
        for index, layer in model.layers():
            for call in calls:
                call.run(layer, index)
        for batch, call in zip(live, calls, strict=True):
            batch.sample(call)
    return [batch.texts for batch in batches]


class _Batch:
    """Prompts that grow together, padded on the left, with their keys and values. Legend: B texts, S tokens."""

    def __init__(self, model: LayeredModel, prompts: list[list[int]], seed: int) -> None:
        from transformers import DynamicCache

        stops: Any = model.causal_lm.generation_config.eos_token_id
        self._stops = torch.tensor([stops] if isinstance(stops, int) else stops or [], dtype=torch.long)
        self._model, self._generator = model, torch.Generator().manual_seed(seed)
        longest = max(map(len, prompts), default=0)
        self._ids_BS = torch.tensor([[0] * (longest - len(p)) + p for p in prompts])
        self._mask_BS = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts])
        self._cache = DynamicCache(config=model.config)
        self._live_B = torch.ones(len(prompts), dtype=torch.bool)
        self.texts = [list(prompt) for prompt in prompts]

    @property
    def live(self) -> bool:
        """Whether a text goes on."""
        return bool(self._live_B.any())

    def begin(self) -> Call:
        """The tokens that the model has not seen, before its first layer."""
        places_BS = (self._mask_BS.cumsum(-1) - 1).clamp_min(0)[:, -self._ids_BS.shape[1] :]
        return self._model.begin(
            input_ids=self._ids_BS,
            attention_mask=self._mask_BS,
            position_ids=places_BS,
            past_key_values=self._cache,
            use_cache=True,
        )

    def sample(self, call: Call) -> None:
        """A token more for each text, after what all layers made of those before."""
        logits_BV = self._model.logits(call, logits_to_keep=1)[:, -1]
        self._ids_BS = torch.multinomial(logits_BV.float().softmax(-1), 1, generator=self._generator)
        for row in self._live_B.nonzero().flatten().tolist():
            self.texts[row].append(int(self._ids_BS[row]))
        self._live_B &= ~torch.isin(self._ids_BS[:, 0], self._stops)
        self._mask_BS = torch.cat([self._mask_BS, torch.ones(len(self.texts), 1, dtype=torch.long)], 1)
