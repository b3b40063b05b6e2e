"""The lattices of GGUF's Q4_0 and Q8_0: what a weight is rounded to, to the bit as ggml's reference does it.

`quantize_row_q4_0_ref` and `quantize_row_q8_0_ref` of llama.cpp's ggml-quants.c: groups of 32 along the input, each
with a 16-bit scale d. Codes are found with 1/d in float32, *before* d is rounded to 16 bits for storage, so that the
largest weight always has the outermost code.

- Q4_0: d = m / -8, m the first weight of the largest magnitude, with its sign; code = trunc(w / d + 8.5) - 8 within
  -8 ... 7.
- Q8_0: d = max|w| / 127; code = w / d rounded to the nearest, halves away from zero.

A scale that is rounded to bfloat16 *first* (the default) makes Q4_0 survive storage: its largest weight, -8 d, is exact
in bfloat16 and float16, the others move by less than half a step, and whoever quantises the stored weights by the stock
rule finds the same codes and scales. Of stock weights 77 % change when they go through bfloat16. Q8_0's largest weight
is 127 d, which needs 15 bits: it survives float32 alone.

Weights of ggml's files have float16 scales (`scale_dtype`), which end at 65,504: a group whose largest weight is beyond
eight times that (127 times, of Q8_0) becomes infinite, here as there.

Legend: O outputs, I inputs, G groups, g the 32 weights of a group.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from workers.quantise.config import GROUP

Form = Literal["q4_0", "q8_0"]

BITS: dict[Form, float] = {"q4_0": 4.5, "q8_0": 8.5}
"""Bits that a weight takes, with its part of the scale."""

_AT_ONCE = {"cpu": 1 << 18, "cuda": 1 << 24}
"""Weights that are rounded at once: what is held beside a matrix is a few times that, in float32. Fewer of them fit a
processor's cache (1.6 times the speed of 1 << 22); a GPU needs many to be busy."""


@torch.no_grad()
def codes(weight_OI: Tensor, form: Form, scale_dtype: torch.dtype = torch.bfloat16) -> tuple[Tensor, Tensor]:
    """The codes [O, G, g] (int8; Q4_0's are -8 ... 7) and the scales [O, G] (float16, of either sign) of a matrix.

    `scale_dtype` is what scales are rounded to before float16: bfloat16, or float16 for ggml's own. Raises ValueError
    for a width that 32 does not divide.
    """
    x_OGg = grouped(weight_OI).float()
    d_OG1 = _scale(x_OGg, form)
    if scale_dtype != torch.float16:  # as which it is stored in any case, after its inverse was taken
        d_OG1 = d_OG1.to(scale_dtype).float()
    steps_OGg = (x_OGg * torch.where(d_OG1 == 0, 0, d_OG1.reciprocal())).nan_to_num_(0)
    # A float becomes an integer by losing what is behind the point, ten times faster than by trunc.
    if form == "q4_0":
        codes_OGg = steps_OGg.add_(8.5).clamp_(0, 15).to(torch.int8).sub_(8)
    else:
        # torch rounds halves to even. What is left beyond the whole is exact, and so is its double.
        codes_OGg = steps_OGg.clamp_(-127, 127).to(torch.int8)
        codes_OGg += steps_OGg.sub_(codes_OGg).mul_(2).to(torch.int8)
    return codes_OGg, d_OG1[..., 0].half()


def storable_codes(weight_OI: Tensor, form: Form) -> tuple[Tensor, Tensor]:
    """The same, for a file. Raises ValueError where a scale is not finite."""
    codes_OGg, scale_OG = codes(weight_OI, form)
    if not torch.isfinite(scale_OG).all():
        raise ValueError("export: a weight is NaN, infinite, or too large for a 16-bit scale; nothing was written")
    return codes_OGg, scale_OG


def values(codes_OGg: Tensor, scale_OG: Tensor) -> Tensor:
    """[O, I] what codes and scales stand for, in float32, in which it is exact."""
    return (codes_OGg * scale_OG.float()[..., None]).flatten(1)


@torch.no_grad()
def on_lattice(weight_OI: Tensor, form: Form, scale_dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """[O, I] the nearest point of the lattice, in the weight's type; see `codes`, of which only some are held at once.

    Exact where the type has the 11 (Q4_0; Q8_0: 15) bits that a point needs; its points stay where they are.
    """
    grouped(weight_OI)
    found_OI = torch.empty_like(weight_OI)
    rows = max(1, _AT_ONCE.get(weight_OI.device.type, 1 << 22) // max(1, weight_OI.shape[1]))
    for some_OI, to_OI in zip(weight_OI.split(rows), found_OI.split(rows), strict=True):
        to_OI.copy_(values(*codes(some_OI, form, scale_dtype)))
    return found_OI


def grouped(weight_OI: Tensor) -> Tensor:
    """[O, G, g] a view of a matrix by groups. Raises ValueError for a width that 32 does not divide."""
    if weight_OI.dim() != 2 or weight_OI.shape[1] % GROUP:
        raise ValueError(f"a weight of shape {list(weight_OI.shape)} has no groups of {GROUP} along its inputs")
    return weight_OI.unflatten(1, (-1, GROUP))


def _scale(x_OGg: Tensor, form: Form) -> Tensor:
    """[O, G, 1] in float32."""
    if form == "q8_0":
        return x_OGg.abs().amax(-1, keepdim=True) / 127
    high_OG1, low_OG1 = x_OGg.amax(-1, keepdim=True), x_OGg.amin(-1, keepdim=True)
    largest_OG1 = torch.where(high_OG1 > -low_OG1, high_OG1, low_OG1)
    both_OG = ((high_OG1 == -low_OG1) & (high_OG1 != 0))[..., 0]
    if bool(both_OG.any()):  # then the first of them; to look for it everywhere would take longer than all the rest
        some_Ng = x_OGg[both_OG]
        largest_OG1[both_OG] = some_Ng.gather(-1, some_Ng.abs().argmax(-1, keepdim=True))
    return largest_OG1 / -8
