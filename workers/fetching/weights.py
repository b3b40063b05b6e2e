"""One tensor of a model, without the rest of its weights."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import load
from torch import Tensor

from workers.fetching import hub, remote
from workers.fetching.folder import model_folder
from workers.fetching.names import folder_of, is_remote
from workers.model_sizes import tensor_files


def read_tensor(model: str, revision: str | None, names: Sequence[str], rows: int) -> Tensor | None:
    """The first `rows` rows of the first of some tensors that a model's safetensors files have; None without any.

    Of an s3:// folder no more is read than that. Of a model of the Hub the file that has it is fetched, into the cache
    where the others would come too. Raises ValueError where it cannot be had, with what to do.
    """
    if (folder := folder_of(model)) is not None:
        return tensor_of_folder(folder, names, rows)
    if (file := _indexed(model_folder(model, revision, weights=False), names)) is None:
        return None
    if is_remote(model):
        data = remote.read_tensor(model, file, names, rows)
        return None if data is None else next(iter(load(data).values()))
    path = hub.one_file(model, revision, file)
    return None if path is None else _of_files([path], names, rows)


def tensor_of_folder(folder: Path, names: Sequence[str], rows: int) -> Tensor | None:
    """The same of the safetensors files right in a folder."""
    return _of_files(sorted(folder.glob("*.safetensors")), names, rows)


def _indexed(folder: Path, names: Sequence[str]) -> str | None:
    """The file with a tensor by the index of a model's weights; without an index all weights are in one file."""
    indices = sorted(folder.glob("*.safetensors.index.json"))
    if not indices:
        return "model.safetensors"
    files: dict[str, str] = {}
    for index in indices:
        files |= json.loads(index.read_text())["weight_map"]
    return next((files[name] for name in names if name in files), None)


def _of_files(paths: Sequence[Path], names: Sequence[str], rows: int) -> Tensor | None:
    where = tensor_files(paths)
    for name in names:
        if name in where:
            with safe_open(where[name], framework="pt") as file:
                tensor: Tensor = file.get_slice(name)[:rows]
                return tensor
    return None
