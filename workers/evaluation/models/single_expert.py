"""The single-expert teacher: one expert per layer kept, its router and the other experts removed.

It answers a question that every newcomer asks: why not cut the medical expert out of the teacher? Experts share a
residual stream that was trained with two or more of them adding up under a router; alone, one is not a model.

The teacher is never whole in memory: texts go through it layer by layer to see which experts they are sent to, and of
the experts only the kept ones' part of the files is read.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from workers.fetching.folder import model_folder
from workers.model_files import EXPERT_KEYS
from workers.streaming.checkpoint import Checkpoint, fill, make_buffers, require_whole, without_memory
from workers.streaming.layered_model import LayeredModel

TEXTS = 16
"""Held-out texts of a domain by which its favourite experts are found."""

_LAYER = re.compile(r"layers\.(\d+)\.")
_EXPERT = re.compile(r"\.experts\.(\d+)\.")


@torch.no_grad()
def favourite_experts(
    source: str,
    revision: str | None,
    texts: Mapping[str, Sequence[np.ndarray]],
    dtype: torch.dtype,
    device: str,
) -> dict[str, dict[int, int]]:
    """By domain and index of a sparse layer, the expert that most of the domain's tokens are sent to. `texts` are
    arrays of ids [S] by domain. The teacher of a folder, or of a Hugging Face id and revision, is read once for all.

    Raises ValueError for files that cannot be read in parts, or lack weights.
    """
    teacher = LayeredModel.from_files(source, revision, dtype=dtype, device=device)
    calls = {
        domain: [
            teacher.begin(input_ids=torch.from_numpy(ids.astype(np.int64))[None].to(device), use_cache=False)
            for ids in some
        ]
        for domain, some in texts.items()
    }
    found: dict[str, dict[int, int]] = {domain: {} for domain in texts}
    for index, layer in teacher.layers():
        for domain, some in calls.items():
            with _routed(layer) as chosen:
                for call in some:
                    call.run(layer, index)
            if chosen is not None:
                found[domain][index] = int(torch.cat(chosen).bincount().argmax()) if chosen else 0
    return found


@contextmanager
def _routed(layer: Any) -> Iterator[list[torch.Tensor] | None]:
    """The experts that tokens are sent to within a block, flat; None for a layer that has no experts."""
    experts = next((module for name, module in layer.named_modules() if name.endswith(".experts")), None)
    if experts is None:
        yield None
        return
    chosen: list[torch.Tensor] = []
    hook = experts.register_forward_pre_hook(lambda _, args: chosen.append(args[1].flatten()))
    try:
        yield chosen
    finally:
        hook.remove()


def single_expert_model(
    source: str, revision: str | None, keep: Mapping[int, int], dtype: torch.dtype, device: str
) -> Any:
    """A model of the teacher's architecture with one expert per sparse layer: `keep`, by the index of the layer."""
    from transformers import AutoConfig

    checkpoint = Checkpoint(model_folder(source, revision))
    config = AutoConfig.from_pretrained(checkpoint.folder)
    whole = without_memory(config, dtype)
    small = without_memory(_of_one_expert(config), dtype)
    names, rows = _parts(checkpoint.parameters_of(whole), whole.state_dict(), small.state_dict(), keep)
    make_buffers(small, device)
    with checkpoint.pieces(names, rows) as pieces:
        fill(small, {names[name]: piece for name, piece in pieces.items()}, dtype, device)
    small.tie_weights()
    require_whole(small, source, (name for name, tensor in small.state_dict().items() if tensor.is_meta))
    return small


def _of_one_expert(config: Any) -> Any:
    config = copy.deepcopy(config)
    name = next(key for key in EXPERT_KEYS if getattr(config, key, None))
    setattr(config, name, 1)
    config.num_experts_per_tok = 1
    return config


def _parts(
    parameters: dict[str, str], whole: dict[str, Any], small: dict[str, Any], keep: Mapping[int, int]
) -> tuple[dict[str, str], dict[str, int]]:
    """Tensors of the files that are read, by what they are called in the smaller model's; and of which of them only a
    row is."""
    names: dict[str, str] = {}
    rows: dict[str, int] = {}
    for name, parameter in parameters.items():
        names[name] = name
        if whole[parameter].shape == small[parameter].shape:
            continue
        layer = _LAYER.search(parameter)
        assert layer is not None, parameter
        expert, kept = _EXPERT.search(name), keep[int(layer[1])]
        if expert is None:
            rows[name] = kept
        elif int(expert[1]) == kept:
            names[name] = name.replace(expert[0], ".experts.0.")
        else:
            del names[name]
    return names, rows
