"""The weights of a model folder, one tensor at a time."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import safe_open

from workers.model_sizes import tensor_files, tensor_shapes

if TYPE_CHECKING:
    from torch import Tensor


class ModelWeights:
    """Tensors of a folder's safetensors files by name. Files are mapped, not read: what is held is what was asked for.

    Raises ValueError for a folder without any.
    """

    def __init__(self, folder: Path) -> None:
        self.shapes: dict[str, list[int]] = tensor_shapes(folder)
        if not self.shapes:
            raise ValueError(f"export: {str(folder)!r} has no safetensors files; export reads no other weights")
        self._files = tensor_files(sorted(folder.glob("*.safetensors")))

    def read(self, name: str) -> Tensor:
        """A tensor, in the type in which it is stored."""
        with safe_open(self._files[name], framework="pt") as file:
            return file.get_tensor(name)
