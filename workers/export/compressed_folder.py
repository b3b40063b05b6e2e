"""compressed-tensors, W4A16 in groups of 32: a folder that transformers and vLLM load.

Weights of linear layers as `pack-quantized` has them: codes -8 ... 7, eight to a word, the first in its lowest bits,
and a scale a group, which here has a sign (see `workers/quantise/lattice.py`): the same numbers as GGUF's Q4_0.
Embeddings, the LM head, norms and biases stay as they are, as is usual.

Legend: O outputs, I inputs, G groups, g the 32 weights of a group.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workers.export.config import ExportConfig
from workers.export.gguf_file.families import FAMILIES, undivided
from workers.export.model_folder import ModelWeights
from workers.export.shards import write_shards
from workers.model_files import read_model_config
from workers.quantise.config import GROUP

if TYPE_CHECKING:
    from torch import Tensor

_UNQUANTISED = ("embed_tokens.weight", "lm_head.weight")


def why_not_compressed(config: dict[str, Any], export: ExportConfig) -> str | None:
    """Why a model of a config.json cannot be written, or None if it can."""
    kind = str(config.get("model_type"))
    if kind not in FAMILIES:
        return f"{kind!r} is not among the architectures that are written: {', '.join(FAMILIES)}"
    if config.get("quantization_config"):
        return "its weights are quantised already"
    if (left_over := undivided(config, GROUP)) and not export.keep:
        return f"{left_over}, which groups of {GROUP} do not divide; keep such layers"
    return None


def is_packed(name: str, shape: list[int], export: ExportConfig) -> bool:
    """Whether a weight is quantised."""
    return len(shape) == 2 and not name.endswith(_UNQUANTISED) and not export.keeps(name)


def write_compressed(model: Path, folder: Path, export: ExportConfig) -> None:
    """Write a folder's model to another folder, a part at a time. Raises ValueError for a width that 32 does not
    divide, and for weights that are not finite."""
    config, weights = read_model_config(model), ModelWeights(model)
    if (reason := why_not_compressed(config, export)) is not None:
        raise ValueError(f"export: compressed-tensors: {reason}")
    kept = sorted(
        name.removesuffix(".weight")
        for name, shape in weights.shapes.items()
        if len(shape) == 2 and not is_packed(name, shape, export) and "embed_tokens" not in name
    )
    write_shards(folder, _tensors(weights, export))
    config["quantization_config"] = _said_of_weights(sorted({*kept, "lm_head"}))
    if export.dtype is not None:
        config["dtype"] = export.dtype
    (folder / "config.json").write_text(json.dumps(config, indent=2))


def _tensors(weights: ModelWeights, export: ExportConfig) -> Iterator[tuple[str, Tensor]]:
    import torch

    for name, shape in weights.shapes.items():
        weight = weights.read(name)
        dtype = getattr(torch, export.dtype) if export.dtype is not None else weight.dtype
        if not is_packed(name, shape, export):
            yield name, weight.to(dtype)
            continue
        stem = name.removesuffix(".weight")
        words, scale_OG = pack(weight)
        yield f"{stem}.weight_packed", words
        yield f"{stem}.weight_scale", scale_OG.to(dtype)
        yield f"{stem}.weight_shape", torch.tensor(shape)


def pack(weight_OI: Tensor) -> tuple[Tensor, Tensor]:
    """[O, I / 8] the codes of a matrix, eight to a word of 32 bits, and [O, G] their scales in float32."""
    import torch

    from workers.quantise.lattice import storable_codes

    codes_OGg, scale_OG = storable_codes(weight_OI, "q4_0")
    nibbles = (codes_OGg.flatten(1) + 8).unflatten(1, (-1, 8)).long()
    words = (nibbles << torch.arange(0, 32, 4)).sum(-1)
    return torch.where(words >= 1 << 31, words - (1 << 32), words).to(torch.int32), scale_OG.float()


def unpack(words: Tensor, scale_OG: Tensor) -> Tensor:
    """[O, I] the weights that words and scales stand for, in float32."""
    import torch

    from workers.quantise.lattice import values

    codes_OI = ((words.long()[..., None] >> torch.arange(0, 32, 4)) & 15).flatten(1) - 8
    return values(codes_OI.unflatten(1, (-1, GROUP)), scale_OG)


def _said_of_weights(ignored: list[str]) -> dict[str, Any]:
    """What the loader is told, as compressed-tensors 0.20 writes it."""
    weights = {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": GROUP}
    group = {"targets": ["Linear"], "weights": {**weights, "dynamic": False}, "format": "pack-quantized"}
    return {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "quantization_status": "compressed",
        "config_groups": {"group_0": {**group, "input_activations": None, "output_activations": None}},
        "ignore": ignored,
    }
