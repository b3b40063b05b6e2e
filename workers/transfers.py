"""Copies between host and device that nothing waits for."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch.nn.functional import pad


def to_device(values: torch.Tensor | np.ndarray | Sequence[int], device: torch.device | str) -> torch.Tensor:
    """Values of the host on a device: to a GPU through pinned memory, so that the host goes on. What is there already
    stays as it is."""
    tensor = values if isinstance(values, torch.Tensor) else torch.from_numpy(np.asarray(values))
    if torch.device(device).type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


class HostCopy:
    """Tensors of one device on their way to the host: from a GPU all of them in one copy, through pinned memory. Those
    of a CPU stay where they are."""

    def __init__(self, tensors: Sequence[torch.Tensor]) -> None:
        self._tensors, self._event = list(tensors), None
        if any(t.is_cuda for t in tensors):
            packed = packed_bytes(tensors)
            host = torch.empty(packed.shape, dtype=torch.uint8, pin_memory=True).copy_(packed, non_blocking=True)
            self._tensors, self._event = unpacked_bytes(host, tensors), torch.cuda.Event()
            self._event.record()

    def tensors(self) -> list[torch.Tensor]:
        """They, on the host; waits for the copy where it is under way."""
        if self._event is not None:
            self._event.synchronize()
        return self._tensors


def packed_bytes(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    """All numbers of some tensors as bytes, each tensor from a multiple of eight on."""
    flat = [t.contiguous().flatten().view(torch.uint8) for t in tensors]
    return torch.cat([pad(bytes_n, (0, -len(bytes_n) % 8)) for bytes_n in flat])


def unpacked_bytes(packed: torch.Tensor, like: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """The inverse of `packed_bytes` (views), in the types and shapes of other tensors."""
    sizes = [t.numel() * t.element_size() for t in like]
    parts = packed.split([size + -size % 8 for size in sizes])
    return [part[:size].view(t.dtype).view(t.shape) for part, size, t in zip(parts, sizes, like, strict=True)]
