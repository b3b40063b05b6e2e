"""Attention of packed texts: each text attends to itself alone, at the cost of just that.

Given to transformers as an attention implementation. A mask over all tokens of a pack would cost their square. On a GPU
torch's variable-length kernel takes all texts in one call, or flash-attn's where that is installed; elsewhere, and for
what the kernel does not know, every text is its own causal call. Lengths go along as Python numbers: to read them off
the GPU would make it wait once a layer.

Legend: P tokens of all texts, H heads, G heads of keys and values, d size of a head, n tokens of one text.
"""

from __future__ import annotations

import importlib.util
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import varlen
from torch.nn.functional import scaled_dot_product_attention

NAME = "stillhouse_packed"

_KERNEL_HEAD = 256
"""Size of a head at most that FlashAttention 2 takes."""


def implementation(device: str, dtype: torch.dtype) -> str:
    """The attention implementation for packed texts on the device that trains."""
    flash = device == "cuda" and dtype in (torch.bfloat16, torch.float16)
    if flash and importlib.util.find_spec("flash_attn") is not None:
        return "flash_attention_2"
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, packed_attention)
    return NAME


def arguments(lengths: tuple[int, ...], device: torch.device) -> dict[str, Any]:
    """What a backbone passes on to its attention: under the names of flash-attn's variable-length kernel, and the
    lengths themselves."""
    ends = torch.tensor([0, *accumulate(lengths)], dtype=torch.int32).to(device, non_blocking=True)
    longest = max(lengths)
    places = {"cu_seq_lens_q": ends, "cu_seq_lens_k": ends, "max_length_q": longest, "max_length_k": longest}
    return places | {"text_lengths": Lengths(lengths)}


class Lengths:
    """Tokens of each text, as one object: of a tuple, torch.compile would make a graph for each number of texts."""

    def __init__(self, of_each: tuple[int, ...]) -> None:
        self.of_each = of_each


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
    max_length_q: int | None = None,
    text_lengths: Lengths | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """[1, P, H, d]. Raises NotImplementedError for what this attention does not know, rather than leave it out."""
    unknown = [name for name in ("softcap", "s_aux", "head_mask", "position_bias") if others.get(name) is not None]
    if unknown or cu_seq_lens_q is None or max_length_q is None or text_lengths is None or attention_mask is not None:
        raise NotImplementedError(f"packed attention with {unknown or 'a mask, or without lengths'}")
    given = (query_1HPd, key_1GPd, value_1GPd)
    if not dropout and kernel_takes(query_1HPd):
        return _in_one_call(*given, cu_seq_lens_q, max_length_q, scaling, sliding_window), None
    return _text_by_text(*given, text_lengths, scaling, dropout, sliding_window), None


@torch.compiler.disable  # it would be another graph for other lengths
def _text_by_text(
    query_1HPd: Tensor,
    key_1GPd: Tensor,
    value_1GPd: Tensor,
    lengths: Lengths,
    scaling: float | None,
    dropout: float,
    sliding_window: int | None,
) -> Tensor:
    """[1, P, H, d], of a causal call for each text."""
    parts = zip(*(x.split(lengths.of_each, dim=2) for x in (query_1HPd, key_1GPd, value_1GPd)), strict=True)
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
    return torch.cat(found, dim=2).transpose(1, 2).contiguous()


def kernel_takes(query: Tensor) -> bool:
    """Whether torch's variable-length kernel, which is FlashAttention 2, takes queries like these."""
    half = query.dtype in (torch.bfloat16, torch.float16)
    return query.is_cuda and half and query.shape[-1] % 8 == 0 and query.shape[-1] <= _KERNEL_HEAD


def _in_one_call(
    query_1HPd: Tensor,
    key_1GPd: Tensor,
    value_1GPd: Tensor,
    ends: Tensor,
    longest: int,
    scaling: float | None,
    sliding_window: int | None,
) -> Tensor:
    """[1, P, H, d] by torch's kernel, which takes [P, H, d]; a token looks back over all before it, or a window."""
    query, key, value = (x[0].transpose(0, 1) for x in (query_1HPd, key_1GPd, value_1GPd))
    back = -1 if sliding_window is None else sliding_window - 1
    found = varlen.varlen_attn(
        *(query, key, value, ends, ends, longest, longest),
        scale=scaling,
        window_size=(back, 0),
        enable_gqa=query.shape[1] != key.shape[1],
    )
    assert isinstance(found, Tensor)
    return found[None]


def _window(n: int, sliding_window: int | None, device: torch.device) -> Tensor | None:
    """Which tokens see which, where a text is longer than the window that a layer looks back; else None."""
    if sliding_window is None or n <= sliding_window:
        return None
    place_n = torch.arange(n, device=device)
    back_nn = place_n[:, None] - place_n
    return (back_nn >= 0) & (back_nn < sliding_window)
