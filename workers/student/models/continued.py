"""Answers of a model to some prompts, sampled for measuring: not targets, which the teacher pool makes."""

from __future__ import annotations

from typing import Any

import torch


@torch.no_grad()
def continued(model: Any, prompts: list[list[int]], tokens: int, seed: int) -> list[list[int]]:
    """Each prompt with up to `tokens` more, sampled at temperature 1 until a token that ends a text."""
    if not prompts:
        return []
    stops = model.generation_config.eos_token_id
    stops = torch.tensor([stops] if isinstance(stops, int) else stops or [], dtype=torch.long)
    generator = torch.Generator().manual_seed(seed)
    longest = max(map(len, prompts))
    ids_BS = torch.tensor([[0] * (longest - len(p)) + p for p in prompts])
    mask_BS = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts])
    texts, live_B, cache = [list(p) for p in prompts], torch.ones(len(prompts), dtype=torch.bool), None
    for _ in range(tokens):
        places_BS = (mask_BS.cumsum(-1) - 1).clamp_min(0)[:, -ids_BS.shape[1] :]
        out = model(
            input_ids=ids_BS,
            attention_mask=mask_BS,
            position_ids=places_BS,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        cache = out.past_key_values
        ids_BS = torch.multinomial(out.logits[:, -1].float().softmax(-1), 1, generator=generator)
        for row in live_B.nonzero().flatten().tolist():
            texts[row].append(int(ids_BS[row]))
        live_B &= ~torch.isin(ids_BS[:, 0], stops)
        if not live_B.any():
            break
        mask_BS = torch.cat([mask_BS, torch.ones(len(prompts), 1, dtype=torch.long)], 1)
    return texts
