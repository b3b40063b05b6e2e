"""The safetensors files of a model, of which tensors, or rows of them, are read one by one; and how a model without
memory gets its weights from them.

transformers renames and converts tensors as it loads them: one for each expert becomes one of all experts, for example.
That is done here by its own code, for as few tensors as are wanted at a time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import (
    WeightConverter,
    WeightRenaming,
    convert_and_load_state_dict_in_model,
    rename_source_key,
)
from transformers.modeling_utils import LoadStateDictConfig
from transformers.utils import logging

from workers.model_files import read_json_object


@dataclass(frozen=True)
class Piece:
    """A tensor of an open file, or one row of its first dimension as a tensor of one row; read when it is indexed."""

    file: Any
    name: str
    row: int | None = None

    def __getitem__(self, _: Any) -> Tensor:
        part = self.file.get_slice(self.name)
        return part[...] if self.row is None else part[self.row : self.row + 1]


class Checkpoint:
    """Names of the tensors of a model's folder, and the files that they are in. Raises ValueError where there are no
    safetensors files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
        if single.exists():
            with safe_open(single, framework="pt") as file:
                self._files = dict.fromkeys(file.keys(), single)
        elif index.exists():
            self._files = {name: folder / file for name, file in read_json_object(index)["weight_map"].items()}
        else:
            raise ValueError(
                f"model: {str(folder)!r} has no safetensors files, and only these are read in parts; save it again "
                "(transformers: from_pretrained, then save_pretrained)"
            )

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    @contextmanager
    def pieces(self, names: Iterable[str], rows: dict[str, int] = {}) -> Iterator[dict[str, Piece]]:
        """Tensors by name, to be read within the block; of those in `rows` just that row. What was read stays."""
        with ExitStack() as stack:
            names = list(names)
            files = {path: stack.enter_context(_open(path)) for path in {self._files[name] for name in names}}
            yield {name: Piece(files[self._files[name]], name, rows.get(name)) for name in names}

    def empty_model(self, dtype: torch.dtype | None, device: str) -> Any:
        """The model that the folder's settings describe, whose weights have shapes and no memory; the buffers that no
        file holds are on the device. `dtype` None is its own."""
        from transformers import AutoConfig, GenerationConfig

        config = AutoConfig.from_pretrained(self.folder)
        config.dtype = dtype or config.dtype or self.dtype()
        model = without_memory(config, config.dtype)
        if (self.folder / "generation_config.json").exists():
            model.generation_config = GenerationConfig.from_pretrained(self.folder)
        make_buffers(model, device)
        return model

    def dtype(self) -> torch.dtype:
        """The type of the first tensor of floating numbers, which transformers takes for a model's."""
        with self.pieces(self) as pieces:
            return next(t.dtype for p in pieces.values() if (t := p.file.get_tensor(p.name)).is_floating_point())

    def parameters_of(self, model: Any) -> dict[str, str]:
        """By tensor of the files: the model's parameter that it is, or is a part of. Those of no parameter are left
        out."""
        mapping, own = get_model_conversion_mapping(model), model.state_dict()
        renamings = [entry for entry in mapping if isinstance(entry, WeightRenaming)]
        converters = [entry for entry in mapping if isinstance(entry, WeightConverter)]
        prefix = model.base_model_prefix
        found = {name: rename_source_key(name, renamings, converters, prefix, own)[0] for name in self}
        found = {name: name if to not in own and name in own else to for name, to in found.items()}
        return {name: to for name, to in found.items() if to in own}


def _open(path: Path) -> Any:
    return safe_open(path, framework="pt", device="cpu")


def without_memory(config: Any, dtype: torch.dtype) -> Any:
    """A causal language model whose parameters have shapes and no memory, in evaluation mode."""
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, dtype=dtype).eval()


def make_buffers(model: Any, device: str) -> None:
    """Give a model without memory the buffers that no file holds, such as the frequencies of rotary positions."""
    for module in model.modules():
        own = {n: b for n, b in module._buffers.items() if n in module._non_persistent_buffers_set and b is not None}
        if own:
            module._buffers |= {name: torch.empty_like(buffer, device=device) for name, buffer in own.items()}
            model._init_weights(module)


def fill(model: Any, pieces: dict[str, Any], dtype: torch.dtype, device: str) -> None:
    """Put tensors of files into a model as transformers' own loading does. Raises ValueError for a wrong shape."""
    settings = LoadStateDictConfig(
        weight_mapping=get_model_conversion_mapping(model),
        device_map={"": torch.device(device)},
        dtype=dtype,
        dtype_plan=model._get_dtype_plan(dtype),
    )
    with _no_progress_bars():
        found, _ = convert_and_load_state_dict_in_model(model, pieces, settings)
    wrong = [str(name) for name, *_ in found.mismatched_keys] + list(found.conversion_errors)
    if wrong:
        raise ValueError(f"model: the files do not fit its config.json ({', '.join(sorted(wrong)[:3])} ...)")


def tie(model: Any) -> None:
    """Let weights of a model that are one share their memory, once their files are read: those that are still without
    memory are the ones beside them. Where the files hold different ones, its configuration says so from now on."""
    missing, tied = {n for n, tensor in model.state_dict().items() if tensor.is_meta}, bool(model.all_tied_weights_keys)
    model.tie_weights(missing_keys=missing, recompute_mapping=False)
    if tied and not model.all_tied_weights_keys:
        model.config.tie_word_embeddings = False


@contextmanager
def _no_progress_bars() -> Iterator[None]:
    """transformers shows one for each time that weights are loaded, which is for each layer here."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def require_whole(model: Any, source: str, names: Iterable[str]) -> None:
    """Raise ValueError where some of a model's parameters were in no file."""
    missing = sorted(set(names))
    if missing:
        shown = ", ".join(missing[:3])
        raise ValueError(
            f"model: the files of {source!r} lack {len(missing)} of the model's weights ({shown} ...); fetch them "
            "again, or make config.json say what they hold"
        )
