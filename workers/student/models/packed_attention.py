"""Attention of packed texts: each text attends to itself alone, at the cost of just that.

Given to transformers as an attention implementation. A mask over all tokens of a pack would cost their square; here
every text is its own causal call. On a GPU with flash-attn its variable-length kernel does the same from the same
arguments.

Legend: P tokens of all texts, H heads, G heads of keys and values, d size of a head, n tokens of one text.
"""

from __future__ import annotations

import importlib.util
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

NAME = "stillhouse_packed"


def implementation(device: str, dtype: torch.dtype) -> str:
    """The attention implementation for packed texts on a device."""
    flash = device == "cuda" and dtype in (torch.bfloat16, torch.float16)
    if flash and importlib.util.find_spec("flash_attn") is not None:
        return "flash_attention_2"
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, packed_attention)
    return NAME


def arguments(lengths: tuple[int, ...], device: torch.device) -> dict[str, Any]:
    """What a backbone passes on to its attention, under the names of flash-attn's variable-length kernel."""
    ends = torch.tensor([0, *lengths], dtype=torch.int32, device=device).cumsum(0, dtype=torch.int32)
    longest = max(lengths)
    return {"cu_seq_lens_q": ends, "cu_seq_lens_k": ends, "max_length_q": longest, "max_length_k": longest}


def packed_attention(
    module: torch.nn.Module,
    query_1HPd: Tensor,
    key_1GPd: Tensor,
    value_1GPd: Tensor,
    attention_mask: Tensor | None = None,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    cu_seq_lens_q: Tensor | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """[1, P, H, d]. Raises NotImplementedError for what this attention does not know, rather than leave it out."""
    unknown = [name for name in ("softcap", "s_aux", "head_mask", "position_bias") if others.get(name) is not None]
    if unknown or cu_seq_lens_q is None or attention_mask is not None:
        raise NotImplementedError(f"packed attention with {unknown or 'a mask, or without lengths'}")
    lengths = cu_seq_lens_q.diff().tolist()
    parts = zip(*(x.split(lengths, dim=2) for x in (query_1HPd, key_1GPd, value_1GPd)), strict=True)
    found = []
    for query, key, value in parts:
        window = _window(query.shape[2], sliding_window, query.device)
        found.append(
            scaled_dot_product_attention(
                query,
                key,
                value,
                attn_mask=window,
                dropout_p=dropout,
                is_causal=window is None,
                scale=scaling,
                enable_gqa=query.shape[1] != key.shape[1],
            )
        )
    return torch.cat(found, dim=2).transpose(1, 2).contiguous(), None


def _window(n: int, sliding_window: int | None, device: torch.device) -> Tensor | None:
    """Which tokens see which, where a text is longer than the window that a layer looks back; else None."""
    if sliding_window is None or n <= sliding_window:
        return None
    place_n = torch.arange(n, device=device)
    back_nn = place_n[:, None] - place_n
    return (back_nn >= 0) & (back_nn < sliding_window)
