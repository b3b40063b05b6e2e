"""How large a model is, from the headers of its files alone. No torch."""

from __future__ import annotations

import json
import math
import re
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from workers.model_files import active_experts, expert_count, read_json_object

DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


def stored_width(model_config: dict[str, Any]) -> int:
    """Bytes of a number in a model's files, by its config.json; 4 where it does not say."""
    kind = model_config.get("dtype") or model_config.get("torch_dtype") or "float32"
    return DTYPE_BYTES.get(str(kind).removeprefix("torch."), 4)


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

    def active(self, model_config: dict[str, Any]) -> int:
        """Those that one token meets, by the model's config.json: of experts, those that it is sent to."""
        count = expert_count(model_config)
        return self.dense + (self.experts * active_experts(model_config) // count if count else 0)


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
        about = path.stat()
        shapes |= _shapes_of_file(path, about.st_mtime_ns, about.st_size)
    return shapes


def tensor_files(paths: Iterable[Path]) -> dict[str, Path]:
    """Which of some safetensors files each tensor is in."""
    found: dict[str, Path] = {}
    for path in paths:
        with safe_open(path, framework="numpy") as file:
            found |= dict.fromkeys(file.keys(), path)
    return found


@lru_cache(maxsize=256)
def _shapes_of_file(path: Path, modified_ns: int, size: int) -> dict[str, list[int]]:
    """A plan asks for the 18,000 tensors of a large mixture several times."""
    try:
        with safe_open(path, framework="numpy") as file:
            return {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
    except SafetensorError:
        raise ValueError(f"model: {str(path)!r} is not a whole safetensors file; fetch it again") from None


_KINDS_OF_WEIGHTS = ("*.safetensors", "*.bin", "*.pt", "*.pth", "*.gguf")

_MOST_HEADER = 100_000_000
"""Bytes of a safetensors header at most, by the format."""

PROCESS_BYTES = 600 << 20
"""What a process that loaded torch, transformers and DeepSpeed holds before any weight."""

_LAYER = re.compile(r"^model\.layers\.(\d+)\.")


def weights_fault(folder: Path, layers: int = 0, *, whole: bool) -> str | None:
    """What is wrong with a folder's files of weights, from their headers alone, or None. `layers`: how many its
    config.json says, 0 where it says none. `whole`: all of them must be there, as nothing is downloaded later."""
    tensors: dict[str, set[str]] = {}
    for path in sorted(folder.glob("*.safetensors")):
        names = _tensors_or_fault(path)
        if isinstance(names, str):
            return names
        tensors[path.name] = names
    for path in sorted(folder.glob("*.bin")):
        with path.open("rb") as file:
            begins = file.read(4)
        if not begins or (begins == b"PK\x03\x04" and not zipfile.is_zipfile(path)):
            return f"{str(path)!r} is cut off; fetch it again"
    if whole and not any(next(folder.glob(kind), None) for kind in _KINDS_OF_WEIGHTS):
        return f"{str(folder)!r} has no weights (model.safetensors); fetch or save them there"
    single = "model.safetensors" in tensors
    for index in [] if single else sorted(folder.glob("*.safetensors.index.json")):
        if (fault := _index_fault(index, tensors, whole=whole)) is not None:
            return fault
        single = True
    there = {int(match[1]) for names in tensors.values() for name in names if (match := _LAYER.match(name))}
    if whole and single and there and len(there) < layers:
        return f"{str(folder)!r} has weights of {len(there)} layers, and its config.json says {layers}; put one right"
    return None


def _index_fault(index: Path, tensors: dict[str, set[str]], *, whole: bool) -> str | None:
    """What is wrong with the files that an index names."""
    try:
        where = read_json_object(index).get("weight_map")
    except ValueError as error:
        return str(error).removeprefix("model: ")
    if not isinstance(where, dict):
        return f"{str(index)!r} has no weight_map; fetch it again"
    for name, file in where.items():
        if file not in tensors:
            if whole and not (index.parent / str(file)).exists():
                return f"{str(index)!r} names {file!r}, which is not there; fetch it"
        elif name not in tensors[file]:
            return f"{str(index)!r} says that {file!r} has {name}, which it has not; fetch both again"
    return None


def _tensors_or_fault(path: Path) -> set[str] | str:
    """Names of the tensors of a safetensors file, or what is wrong with it."""
    size, fault = path.stat().st_size, f"{str(path)!r} is not a whole safetensors file"
    with path.open("rb") as file:
        begins = file.read(8)
        if begins == b"version ":
            return f"{str(path)!r} is a pointer of Git LFS and not the weights; run `git lfs pull` there"
        length = int.from_bytes(begins, "little")
        if len(begins) < 8 or length > min(size - 8, _MOST_HEADER):
            return f"{fault} (of {size:,} bytes, its header alone has more); fetch it again"
        try:
            header = json.loads(file.read(length))
            entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
            ends = max((int(entry["data_offsets"][1]) for entry in entries.values()), default=0)
        except (ValueError, TypeError, KeyError, IndexError, AttributeError):
            return f"{fault} (its header is not JSON as the format says); fetch it again"
    if 8 + length + ends != size:
        return f"{fault} (of {size:,} bytes, and its header says {8 + length + ends:,}); fetch it again"
    return set(entries)
