"""A model folder written as one GGUF file."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from workers.export.config import ExportConfig
from workers.export.gguf_file.families import FAMILIES, reader, why_not_gguf
from workers.export.gguf_file.settings import rope_factors, write_settings
from workers.export.gguf_file.tensors import Planned, arranged, packed, plan_tensors
from workers.export.gguf_file.tokenizer import write_no_tokenizer, write_tokenizer
from workers.export.model_folder import ModelWeights
from workers.model_files import read_model_config

ROPE_FACTORS = "rope_freqs.weight"


@dataclass(frozen=True)
class About:
    """What a file says of itself."""

    name: str
    licence: str | None = None
    base: str | None = None
    """Name of the model that its weights began as."""


def write_gguf(model: Path, tokenizer: Path, path: Path, export: ExportConfig, about: About) -> None:
    """Write a folder's model, with the tokenizer and the chat template of a folder, to a file.

    One tensor is held at a time. The file has its name when it is whole. Raises ValueError for what llama.cpp cannot
    express, before anything is written.
    """
    import gguf

    config = read_model_config(model)
    if (reason := why_not_gguf(config)) is not None:
        raise ValueError(f"export: gguf: {reason}")
    family, read, weights = FAMILIES[config["model_type"]], reader(config), ModelWeights(model)
    planned = plan_tensors(weights.shapes, family, read, export)
    partial = path.with_name(f"{path.name}.partial")
    writer = gguf.GGUFWriter(partial, family.name)
    try:
        _write_about(writer, about)
        write_settings(writer, family, read, planned[0].shape[0], export)
        if export.tokenizer == "own":
            write_tokenizer(writer, tokenizer, planned[0].shape[0])
        else:
            write_no_tokenizer(writer)
        factors = rope_factors(read)
        _announce(writer, planned, factors)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for tensor in planned:
            _write_tensor(writer, packed(arranged(weights.read(tensor.source), tensor, family, read), tensor.type))
        if factors is not None:
            _write_tensor(writer, iter([factors.view(np.uint8)]))
        writer.close()
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _write_about(writer: Any, about: About) -> None:
    writer.add_name(about.name)
    if about.licence is not None:
        writer.add_license(about.licence)
    if about.base is not None:
        writer.add_base_model_count(1)
        writer.add_base_model_name(0, about.base)


def _announce(writer: Any, planned: list[Planned], factors: np.ndarray[Any, Any] | None) -> None:
    """Names, shapes and types of all tensors, which stand before the first of them."""
    import gguf

    for tensor in planned:
        kind = getattr(gguf.GGMLQuantizationType, tensor.type.upper())
        writer.add_tensor_info(tensor.name, tensor.shape, np.dtype(np.float32), tensor.nbytes, raw_dtype=kind)
    if factors is not None:
        writer.add_tensor_info(ROPE_FACTORS, factors.shape, factors.dtype, factors.nbytes)


def _write_tensor(writer: Any, pieces: Any) -> None:
    """A tensor in pieces; the writer's own way takes it whole. What it does besides is padding."""
    file = writer.fout[0]
    writer.write_padding(file, file.tell())
    written = 0
    for piece in pieces:
        piece.tofile(file)
        written += piece.nbytes
    writer.write_padding(file, written)
