"""Weights of a GGUF file as transformers has them: what they should be, and what a written file holds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from workers.export.config import K_QUANTS, ExportConfig
from workers.export.gguf_file.families import FAMILIES, Family, Read, reader
from workers.export.gguf_file.tensors import Planned, arranged, disarranged, k_blocks, plan_tensors
from workers.export.model_folder import ModelWeights
from workers.model_files import read_model_config

if TYPE_CHECKING:
    from torch import Tensor


def gguf_weights(model: Path, export: ExportConfig) -> Iterator[tuple[str, Tensor]]:
    """What the weights of a folder are in a file of it, in float32: points of the lattice, or of float16; of K-quants
    what llama.cpp's quantiser makes of them."""
    import gguf
    import torch

    from workers.quantise.lattice import on_lattice

    weights, planned, family, read = _planned(model, export)
    for tensor in planned:
        weight = weights.read(tensor.source)
        if tensor.type == "q4_0" or tensor.type == "q8_0":
            yield tensor.source, on_lattice(weight.float(), tensor.type)
        elif tensor.type in K_QUANTS:
            kind = gguf.GGMLQuantizationType[tensor.type.upper()]
            yield tensor.source, torch.from_numpy(gguf.dequantize(k_blocks(weight, tensor.type), kind))
        elif tensor.type == "f16":
            yield tensor.source, weight.half().float()
        else:  # whatever is added to norms rounds them
            yield tensor.source, disarranged(arranged(weight.float(), tensor, family, read), tensor, family, read)


def read_gguf(path: Path, model: Path, export: ExportConfig) -> Iterator[tuple[str, Tensor]]:
    """Each weight of a file in float32, by gguf's own reader. `model`: the folder that it was written of."""
    import gguf
    import torch

    _, planned, family, read = _planned(model, export)
    found = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    for tensor in planned:
        stored = found[tensor.name]
        numbers = torch.from_numpy(gguf.dequantize(stored.data, stored.tensor_type).copy()).reshape(tensor.shape)
        yield tensor.source, disarranged(numbers, tensor, family, read)


def _planned(model: Path, export: ExportConfig) -> tuple[ModelWeights, list[Planned], Family, Read]:
    config = read_model_config(model)
    weights, family, read = ModelWeights(model), FAMILIES[config["model_type"]], reader(config)
    return weights, plan_tensors(weights.shapes, family, read, export), family, read
