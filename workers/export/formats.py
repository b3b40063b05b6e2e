"""The formats of exports: for each, what it cannot express, how it is written, and what its weights are afterwards.

Imports no model library: checks ask it before anything is loaded.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workers.export.compressed_folder import is_packed, unpack, why_not_compressed, write_compressed
from workers.export.config import ExportConfig
from workers.export.gguf_file.families import undivided, why_not_gguf
from workers.export.gguf_file.tokenizer import why_not_expressible
from workers.export.model_folder import ModelWeights
from workers.export.running.process import Runtime
from workers.export.safetensors_folder import TOKENIZER_FILES
from workers.export.shards import write_shards
from workers.model_files import read_model_config
from workers.quantise.config import GROUP

if TYPE_CHECKING:
    from torch import Tensor

RUNTIMES: dict[str, Runtime] = {
    "gguf": "llama.cpp",
    "safetensors": "transformers",
    "compressed-tensors": "transformers",
}
"""The program that a format's files are measured in."""

NO_TOKENIZER = (
    "With `tokenizer: none` in this export (--tokenizer none on the command line) the file holds none: it can be "
    "measured, and used by programs that bring token ids, and no more"
)

_PACKAGES = {"gguf": "gguf", "compressed-tensors": "compressed-tensors"}
"""What writing or measuring a format imports; the extra has its name."""


@dataclass(frozen=True)
class Named:
    """Whose model a file is."""

    name: str
    """Name of the specialist, or of the folder."""
    licence: str | None = None
    base: str | None = None
    """Name of the model that its weights began as."""


def why_not(export: ExportConfig, config: dict[str, Any], tokenizer: Path) -> str | None:
    """Why a model of a config.json, with the tokenizer of a folder, cannot be exported so; None if it can."""
    if export.format == "compressed-tensors":
        return why_not_compressed(config, export)
    if export.format != "gguf":
        return None
    if (reason := why_not_gguf(config)) is not None:
        return reason
    if export.tokenizer == "own" and (reason := why_not_expressible(tokenizer)) is not None:
        return f"the tokenizer cannot be written: {reason}. {NO_TOKENIZER}"
    if export.block is not None and not export.keep and (left_over := undivided(config, export.block)):
        other = "q4_0, q8_0 or f16" if export.block > GROUP else "f16"
        return f"{left_over}, which blocks of {export.block} do not divide; take weights: {other}, or keep such layers"
    return None


def why_not_here(export: ExportConfig) -> str | None:
    """Why this machine cannot write and measure a format; None if it can."""
    wanted = {_PACKAGES[export.format]: _PACKAGES[export.format]} if export.format in _PACKAGES else {}
    if export.format == "gguf" and (export.measure or export.by_runtime):
        wanted["xllamacpp"] = "llama-cpp"
    for package, extra in wanted.items():
        if importlib.util.find_spec(package.replace("-", "_")) is None:
            unless = ", or set measure: 0, which leaves the file unmeasured" if package == "xllamacpp" else ""
            unless = f"; its quantiser rounds to {export.linear_type}" if unless and export.by_runtime else unless
            return f"the package {package} is not installed; install stillhouse[{extra}]{unless}"
    return None


def write(export: ExportConfig, model: Path, tokenizer: Path, folder: Path, named: Named) -> Path:
    """Write a model folder in a format below a folder; returns what a runtime loads, a file or the folder.

    Raises ValueError for what the format cannot express.
    """
    if export.format == "gguf":
        from workers.export.gguf_file.writing import About, write_gguf

        path = folder / f"{named.name}-{export.linear_type}.gguf"
        write_gguf(model, tokenizer, path, export, About(named.name, named.licence, named.base))
        return path
    if export.format == "compressed-tensors":
        write_compressed(model, folder, export)
    else:
        _write_converted(model, folder, export)
    for name in ("generation_config.json", *TOKENIZER_FILES):
        source = (model if name == "generation_config.json" else tokenizer) / name
        if source.exists():
            (folder / name).write_bytes(source.read_bytes())
    return folder


def stored_weights(export: ExportConfig, model: Path) -> Iterator[tuple[str, Tensor]]:
    """What the weights of a model folder are in a format, in float32, in transformers' names and order of rows: those
    that training computed with, if it was trained for it."""
    from workers.quantise.lattice import on_lattice

    if export.format == "gguf":
        from workers.export.gguf_file.reading import gguf_weights

        yield from gguf_weights(model, export)
        return
    weights = ModelWeights(model)
    for name, shape in weights.shapes.items():
        if export.format == "compressed-tensors" and is_packed(name, shape, export):
            yield name, on_lattice(weights.read(name).float(), "q4_0")
        else:
            yield name, _cast(weights.read(name), export).float()


def differing_weights(export: ExportConfig, model: Path, path: Path) -> int:
    """How many weights of a written file or folder are not `stored_weights` of the model that it was written of."""
    if export.format == "gguf":
        from workers.export.gguf_file.reading import read_gguf

        pairs = zip(stored_weights(export, model), read_gguf(path, model, export), strict=True)
        return sum(int((wanted != found).sum()) for (_, wanted), (_, found) in pairs)
    written = ModelWeights(path)
    return sum(int((_read(written, name) != wanted).sum()) for name, wanted in stored_weights(export, model))


def _read(written: ModelWeights, name: str) -> Tensor:
    if f"{name}_packed" in written.shapes:
        return unpack(written.read(f"{name}_packed"), written.read(f"{name}_scale"))
    return written.read(name).float()


def _write_converted(model: Path, folder: Path, export: ExportConfig) -> None:
    weights = ModelWeights(model)
    write_shards(folder, ((name, _cast(weights.read(name), export)) for name in weights.shapes))
    config = read_model_config(model)
    config["dtype"] = export.dtype or config.get("dtype")
    (folder / "config.json").write_text(json.dumps(config, indent=2))


def _cast(weight: Tensor, export: ExportConfig) -> Tensor:
    import torch

    return weight.to(getattr(torch, export.dtype)) if export.dtype is not None else weight
