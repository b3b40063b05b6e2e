"""Text that models write behind prompts, with the keys and values of what was read kept.

Legend: B texts, S tokens, T written tokens, V ids.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from workers.two_part_model import TwoPartModel

Ids = Sequence[int] | np.ndarray


def padded(texts: Sequence[Ids], *, left: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and mask [B, S] of texts of unequal lengths."""
    shape = len(texts), max(map(len, texts))
    ids_BS, mask_BS = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    for b, text in enumerate(texts):
        place = slice(shape[1] - len(text), None) if left else slice(0, len(text))
        ids_BS[b, place], mask_BS[b, place] = text, 1
    return torch.from_numpy(ids_BS), torch.from_numpy(mask_BS)


@torch.no_grad()
def write(
    model: TwoPartModel,
    prompts: Sequence[Ids],
    most: int | Sequence[int],
    choose: Callable[[torch.Tensor], torch.Tensor],
    stop_ids: Sequence[int] = (),
) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids [B, T] that a model writes behind prompts, and whether each is a text's [B, T]: its first id of `stop_ids` is
    its last one. `most` at most, of all or of each; `choose` makes the next ids [B], on the CPU, of logits [B, V]."""
    from transformers import DynamicCache

    stops = torch.tensor(sorted(stop_ids), dtype=torch.long)
    ids_BS, mask_BS = padded(prompts, left=True)
    most_B = torch.as_tensor(most).expand(len(prompts))
    # Beside longer ones a text is written on behind its end, but never at a place that no model may have.
    last_B1 = (torch.tensor([len(prompt) for prompt in prompts]) + most_B - 1)[:, None]
    cache, live_B = DynamicCache(config=model.model.config), most_B > 0
    written, live = [], []
    for step in range(1, int(most_B.max()) + 1):
        positions_BS = (mask_BS.cumsum(-1) - 1).clamp_min(0)[:, -ids_BS.shape[1] :].minimum(last_B1)
        hidden_BSH = model.body(ids_BS, mask_BS, cache, positions_BS)
        next_B = choose(model.head(hidden_BSH[:, -1]))
        written.append(next_B)
        live.append(live_B)
        live_B = live_B & ~torch.isin(next_B, stops) & (most_B > step)
        if not live_B.any():
            break
        ids_BS = next_B[:, None]
        mask_BS = torch.cat([mask_BS, torch.ones(len(prompts), 1, dtype=torch.long)], 1)
    return torch.stack(written, 1), torch.stack(live, 1)
