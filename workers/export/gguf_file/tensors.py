"""Weights of a model as GGUF has them: names, order of rows, types and bytes.

Legend: O outputs, I inputs, G groups, g the 32 weights of a group.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from workers.export.config import BLOCKS, K_QUANTS, ExportConfig, WeightType
from workers.export.gguf_file.families import Family, Read
from workers.quantise.lattice import GROUP, Form, storable_codes

_EMBEDDINGS = ("token_embd.weight", "output.weight")

_BLOCK_BYTES: dict[WeightType, int] = {
    "q4_0": 2 + GROUP // 2, "q8_0": 2 + GROUP, "q4_k": 144, "q5_k": 176, "q6_k": 210,
}  # fmt: skip

_AT_ONCE = 1 << 18
"""Weights that are packed at once."""


@dataclass(frozen=True)
class Planned:
    """A tensor of the file."""

    source: str
    """Its name in safetensors."""
    name: str
    shape: tuple[int, ...]
    type: WeightType

    @property
    def nbytes(self) -> int:
        count = int(np.prod(self.shape))
        if self.type in BLOCKS:
            return count // BLOCKS[self.type] * _BLOCK_BYTES[self.type]
        return count * (4 if self.type == "f32" else 2)


def plan_tensors(shapes: dict[str, list[int]], family: Family, read: Read, export: ExportConfig) -> list[Planned]:
    """The tensors of the file, in its order. Raises ValueError for one that llama.cpp has no place for, one that is
    missing, and a width that the block does not divide."""
    import gguf

    arch = next(a for a, name in gguf.MODEL_ARCH_NAMES.items() if name == family.name)
    layers = int(read("num_hidden_layers"))
    names = gguf.get_tensor_name_map(arch, layers)
    planned = []
    for source, shape in sorted(shapes.items(), key=lambda item: _order(item[0])):
        if source == "lm_head.weight" and read("tie_word_embeddings"):
            continue
        name = names.get_name(source, try_suffixes=(".weight", ".bias"))
        if name is None:
            raise ValueError(f"export: llama.cpp has no place for the weight {source!r} in {family.name}")
        planned.append(Planned(source, name, tuple(shape), _type(name, source, shape, export)))
    _require_whole(planned, layers, tied=bool(read("tie_word_embeddings")))
    return planned


def _type(name: str, source: str, shape: list[int], export: ExportConfig) -> WeightType:
    if len(shape) < 2:
        return "f32"
    kind = export.embedding_type if name in _EMBEDDINGS else export.linear_type
    if kind in BLOCKS and export.keeps(source):
        return "f32"
    if kind in BLOCKS and shape[-1] % BLOCKS[kind]:
        raise ValueError(
            f"export: {source} is {shape[-1]} wide, which blocks of {BLOCKS[kind]} do not divide; take weights f16, or "
            "keep it"
        )
    return kind


def _require_whole(planned: list[Planned], layers: int, *, tied: bool) -> None:
    """Every layer has as many tensors as the first, and what is not of a layer is there."""
    found = {tensor.name for tensor in planned}
    first = {name.removeprefix("blk.0.") for name in found if name.startswith("blk.0.")}
    wanted = {f"blk.{i}.{part}" for i in range(layers) for part in first} | {"token_embd.weight", "output_norm.weight"}
    wanted |= set() if tied else {"output.weight"}
    if not first or (missing := sorted(wanted - found)):
        raise ValueError(f"export: the model's weights have no {missing[0] if first else 'layers'}")


def _order(name: str) -> tuple[int, int, str]:
    """Embeddings first, then layer by layer."""
    parts = name.split(".")
    number = next((int(part) for part in parts if part.isdigit()), -1)
    return (0 if "embed" in name else 1 if number >= 0 else 2), number, name


def arranged(weight: Tensor, tensor: Planned, family: Family, read: Read) -> Tensor:
    """A weight as llama.cpp computes with it: of each head the rows 0, n/2, 1, n/2 + 1, ... where it rotates neighbours
    and transformers halves."""
    if heads := _turned(tensor, family, read):
        return weight.unflatten(0, (heads, 2, -1)).transpose(1, 2).reshape(weight.shape)
    return weight.float() + family.norm_shift if _shifted(tensor, family) else weight


def disarranged(weight: Tensor, tensor: Planned, family: Family, read: Read) -> Tensor:
    """What `arranged` was given."""
    if heads := _turned(tensor, family, read):
        return weight.unflatten(0, (heads, -1, 2)).transpose(1, 2).reshape(weight.shape)
    return weight - family.norm_shift if _shifted(tensor, family) else weight


def _turned(tensor: Planned, family: Family, read: Read) -> int:
    """The heads whose rows are in another order; 0 of most weights."""
    if not family.rotates_pairs or not any(part in tensor.name for part in (".attn_q.", ".attn_k.")):
        return 0
    heads = read("num_attention_heads")
    return int(heads if ".attn_q." in tensor.name else read("num_key_value_heads") or heads)


def _shifted(tensor: Planned, family: Family) -> bool:
    return bool(family.norm_shift) and tensor.name.endswith("norm.weight")


def packed(weight: Tensor, kind: WeightType) -> Iterator[np.ndarray[Any, Any]]:
    """The bytes of a weight, in pieces of which only one is held at a time."""
    flat = weight if weight.dim() > 1 else weight[None]
    for some in flat.split(max(1, _AT_ONCE // flat.shape[1])):
        if kind == "f32":
            yield some.float().numpy().view(np.uint8)
        elif kind == "f16":
            yield some.half().numpy().view(np.uint8)
        elif kind in K_QUANTS:
            yield k_blocks(some, kind)
        else:
            yield _blocks(some, cast(Form, kind))


def k_blocks(weight_OI: Tensor, kind: WeightType) -> np.ndarray[Any, Any]:
    """[O, bytes] the blocks of a weight by llama.cpp's own quantiser. Raises ValueError where it is not installed."""
    import gguf

    from workers.export.running.llama_library import quantised_rows

    blocks = np.empty((len(weight_OI), weight_OI.shape[1] // BLOCKS[kind] * _BLOCK_BYTES[kind]), np.uint8)
    quantised_rows(weight_OI.float().contiguous().numpy(), gguf.GGMLQuantizationType[kind.upper()].value, blocks)
    return blocks


def _blocks(weight_OI: Tensor, form: Form) -> np.ndarray[Any, Any]:
    """[O, bytes] each group as ggml has it: the scale, then codes; of four bits, the second half in the upper ones."""
    codes_OGg, scale_OG = storable_codes(weight_OI, form)
    if form == "q4_0":
        low, high = (codes_OGg + 8).to(torch.uint8).chunk(2, -1)
        codes_OGg = low | (high << 4)
    scales = scale_OG.numpy()[..., None].view(np.uint8)
    return np.concatenate([scales, codes_OGg.numpy().view(np.uint8)], -1).reshape(len(weight_OI), -1)
