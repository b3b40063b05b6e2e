"""The teacher at 4 bit: its linear weights rounded to 4-bit numbers, and computed with as what they then are.

Weights only, round to nearest, symmetric, in groups of 32 along the input (the last of a row may be shorter) with a
16-bit step each: GGUF's Q4_0 (`workers/quantise/lattice.py`), 4.5 bits a weight. That is what people run who do not
calibrate, needs no texts, and its short groups lose less than the groups of 128 that GPTQ (arXiv 2210.17323) and AWQ
(arXiv 2306.00978) take, at .3 bits more: SmolLM2-135M is then .304 nats from itself on English text, with a zero point
.316 in groups of 32 and .328 in groups of 64, and with steps of a seventh in place of an eighth .439. A calibrated one
can be measured too, as a folder (`evaluate.models`).

Embeddings, the LM head, norms, biases and routers stay as they are, as is usual. The rounding is simulated: numbers are
put in the place of weights in the type that these have, so what is measured is what it does to the model, not a speed.

Legend: O outputs, I inputs, G groups, g numbers of a group.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from workers.evaluation.cost import RoundedWeights
from workers.model_sizes import EXPERT_WEIGHTS
from workers.quantise.lattice import GROUP, on_lattice

_STEP_BYTES = 2

_AT_ONCE = 1 << 22
"""Weights that are rounded at once: what is held beside the model is a few times that, in float32."""

_ROUTERS = ("gate", "router", "shared_expert_gate")
"""The last or last but one part of the names of linear layers that say where a token goes."""


@torch.no_grad()
def round_to_4_bit(model: Any) -> RoundedWeights:
    """Round a transformers model's linear weights in place, one after another. Raises ValueError if it has none."""
    rounded = groups = 0
    for weight_EOI in _linear_weights(model):
        for weight_OI in weight_EOI:
            round_matrix(weight_OI)
            rounded += weight_OI.numel()
            groups += len(weight_OI) * -(-weight_OI.shape[1] // GROUP)
    if not rounded:
        raise ValueError(
            f"evaluate.baselines: teacher_4bit found no linear weights to round in {type(model).__name__}; take it out"
        )
    total = sum(parameter.numel() for parameter in model.parameters())
    packed = -(-rounded // 2) + _STEP_BYTES * groups
    return RoundedWeights(total, rounded, packed + 2 * (total - rounded), 2 * total)


def round_matrix(weight_OI: Tensor) -> None:
    """Round a matrix in place: each group to -8 ... 7 times a step, by which its largest number (of either sign) is -8.

    What a number loses is half a step at most, but for those of the other sign that 7 steps do not reach: a whole one.
    """
    width = weight_OI.shape[1]
    for some_OI in weight_OI.split(max(1, _AT_ONCE // width)):
        some_OI.copy_(on_lattice(nn.functional.pad(some_OI, (0, -width % GROUP)), "q4_0", torch.float16)[:, :width])


def _linear_weights(model: Any) -> Iterator[Tensor]:
    """The weights of linear layers, each [1, O, I], and those of experts [E, O, I]; views of the model's own."""
    head = model.get_output_embeddings()
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            if module is not head and not any(part in _ROUTERS for part in name.split(".")[-2:]):
                yield module.weight[None]
            continue
        for own, parameter in module.named_parameters(recurse=False):
            if parameter.dim() == 3 and any(part in f"{name}.{own}" for part in EXPERT_WEIGHTS):
                yield parameter.mT if getattr(module, "is_transposed", False) else parameter
