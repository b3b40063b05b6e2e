"""Safetensors files written part by part, so that no more of a model than one part is held."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

PART_BYTES = 2 << 30


def write_shards(folder: Path, tensors: Iterable[tuple[str, Tensor]], part_bytes: int = PART_BYTES) -> None:
    """Write tensors to a folder under the names that transformers looks for: one file, or several and their index."""
    from safetensors.torch import save_file

    parts: list[list[str]] = []
    held: dict[str, Tensor] = {}
    total = size = 0

    def write() -> None:
        save_file(held, folder / f"part-{len(parts)}", metadata={"format": "pt"})
        parts.append(list(held))
        held.clear()

    for name, tensor in tensors:
        nbytes = tensor.numel() * tensor.element_size()
        if held and size + nbytes > part_bytes:
            write()
            size = 0
        held[name] = tensor.contiguous()
        size, total = size + nbytes, total + nbytes
    write()
    if len(parts) == 1:
        (folder / "part-0").rename(folder / "model.safetensors")
        return
    files = [f"model-{i + 1:05d}-of-{len(parts):05d}.safetensors" for i in range(len(parts))]
    for i, file in enumerate(files):
        (folder / f"part-{i}").rename(folder / file)
    index = {name: file for file, names in zip(files, parts, strict=True) for name in names}
    about = {"metadata": {"total_size": total}, "weight_map": index}
    (folder / "model.safetensors.index.json").write_text(json.dumps(about, indent=2))
