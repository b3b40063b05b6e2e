"""How large a model is, from the headers of its files alone. No torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open

DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


EXPERT_WEIGHTS = (".experts.", ".block_sparse_moe.input_linear.", ".block_sparse_moe.output_linear.")
"""In the names of experts' weights in checkpoints; the latter are Granite's."""


@dataclass(frozen=True)
class ModelSize:
    """Parameters of a model, and how many of them are experts'."""

    parameters: int
    experts: int = 0

    @property
    def dense(self) -> int:
        return self.parameters - self.experts


def model_size(folder: Path) -> ModelSize | None:
    """Counted from the headers of a folder's safetensors files; None where there are none (not downloaded yet)."""
    total = experts = 0
    for name, shape in tensor_shapes(folder).items():
        count = math.prod(shape)
        total += count
        experts += count if any(part in name for part in EXPERT_WEIGHTS) else 0
    return ModelSize(total, experts) if total else None


def tensor_shapes(folder: Path) -> dict[str, list[int]]:
    """Shape of every tensor of a folder's safetensors files, from their headers."""
    shapes: dict[str, list[int]] = {}
    for path in folder.glob("*.safetensors"):
        try:
            with safe_open(path, framework="numpy") as file:
                shapes |= {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
        except SafetensorError:
            raise ValueError(f"model: {str(path)!r} is not a whole safetensors file; fetch it again") from None
    return shapes
