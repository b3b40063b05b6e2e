"""Copies between host and device that nothing waits for."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch


def to_device(values: torch.Tensor | np.ndarray | Sequence[int], device: torch.device | str) -> torch.Tensor:
    """Values of the host on a device: to a GPU through pinned memory, so that the host goes on. What is there already
    stays as it is."""
    tensor = torch.as_tensor(values)
    if torch.device(device).type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)
