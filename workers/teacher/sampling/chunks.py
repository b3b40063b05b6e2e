"""How many distributions are dense at once, by the device that holds them. Loads no torch until asked to."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

HEAD_NUMBERS = 16_000_000
"""Logits that one pass of a model's head makes on a CPU: enough rows to be worth reading its weights for, 64 MB in
float32."""

GPU_NUMBERS = 1 << 27
"""Logits that are made and captured at once on a GPU at most: 883 rows of 151,936 ids; a quarter keeps it busy."""

NUMBER_BYTES = 24
"""Bytes that a logit takes there while it is captured: as it came and in float32, its mass, and what a scheme makes of
it in passing."""

_CPU_NUMBERS = 2_000_000
"""Probabilities that are captured at once on a CPU: few enough to stay near the processor."""

_SHARE = 8
"""A GPU's free memory over what capturing may take of it."""


def chunk_rows(vocabulary: int, device: torch.device | str) -> int:
    """Distributions over so many ids that are captured at once on a device."""
    return max(1, (_gpu_numbers(device) or _CPU_NUMBERS) // vocabulary)


def head_numbers(device: torch.device | str) -> int:
    """Logits that one pass of a model's head makes on a device: those captured at once, or more where that is a CPU."""
    return _gpu_numbers(device) or HEAD_NUMBERS


def _gpu_numbers(device: torch.device | str) -> int:
    """Of a GPU, what an eighth of its free memory holds (39M, or 257 rows of 151,936 ids, where that is 7.5 GB)
    between a CPU's chunk and `GPU_NUMBERS`; of a CPU 0."""
    import torch

    if torch.device(device).type != "cuda":
        return 0
    free, _ = torch.cuda.mem_get_info(device)
    free += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return min(max(free // (_SHARE * NUMBER_BYTES), _CPU_NUMBERS), GPU_NUMBERS)
