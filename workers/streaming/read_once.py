"""A model on all ranks of a process group, of which the first one alone reads the files.

A start asks the store for a model once, whatever the number of ranks and nodes. Weights go from the files to the
device tensor by tensor, in the type that is computed with: no rank holds more than the model, and where parameters are
shared out as they come, none holds more than its share and one part: what is in no layer, or a layer.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import nn

from cluster.storage import Storage, join, local_folder
from workers.collectives import from_first
from workers.streaming.checkpoint import Checkpoint, fill, make_buffers, require_whole, tie, without_memory

T = TypeVar("T")


def read_once(
    storage: Storage,
    key: str,
    dtype: torch.dtype,
    device: str,
    look: Callable[[Any], T],
    hold: Callable[[nn.Parameter], None] | None = None,
) -> tuple[Any, T]:
    """The causal language model in the folder at `key`, in evaluation mode, and what `look` finds of it. A collective.

    `look` is asked once, on the first rank, of the model with its first layers: so many that each kind of them is
    there. Every rank gives each parameter to `hold` as soon as it is there, on the first one with its weights, all in
    one order; what the others' hold until somebody sends them is left to who calls. Raises ValueError for files that
    lack weights or do not fit.
    """
    with ExitStack() as stack:
        source = None
        if dist.get_rank() == 0:
            folder = stack.enter_context(local_folder(storage, key))
            source = _Source(folder, join(storage.uri, key), dtype, device)
        config, found = from_first((source.model.config, source.seen(look)) if source is not None else None)
        model = source.model if source is not None else without_memory(config, dtype)
        if source is None:
            make_buffers(model, device)
        for names in parts_of(model):
            if source is not None:
                source.read(names)
            _give_out(model, names, device, hold)
    return model, found


def parts_of(model: Any) -> list[list[str]]:
    """Names of the weights and stored buffers that are read together: those in no layer, then layer by layer."""
    parts: dict[str, list[str]] = {"": []}
    path, _ = _layers_of(model)
    for name in model.state_dict():
        inside = path is not None and name.startswith(f"{path}.")
        layer = name.removeprefix(f"{path}.").split(".", 1)[0] if inside else ""
        parts.setdefault(layer, []).append(name)
    return list(parts.values())


def first_of_each_kind(config: Any) -> int:
    """How many of a model's first layers have one of each of its kinds among them, by its configuration."""
    text = config.get_text_config()
    kinds = getattr(text, "layer_types", None) or [None] * text.num_hidden_layers
    return max(kinds.index(kind) for kind in set(kinds)) + 1


class _Source:
    """The files of a model, and the model that they are read into."""

    def __init__(self, folder: Path, name: str, dtype: torch.dtype, device: str) -> None:
        self._checkpoint, self._name, self._dtype, self._device = Checkpoint(folder), name, dtype, device
        self.model = self._checkpoint.empty_model(dtype, device)
        self._parameters = self._checkpoint.parameters_of(self.model)

    def seen(self, look: Callable[[Any], T]) -> T:
        """What `look` finds of the model with its first layers."""
        few = first_of_each_kind(self.model.config)
        path, layers = _layers_of(self.model)
        for names in parts_of(self.model)[: few + 1]:
            self.read(names)
        if path is None:
            return look(self.model)
        above, _, name = path.rpartition(".")
        setattr(self.model.get_submodule(above), name, layers[:few])
        try:
            return look(self.model)
        finally:
            setattr(self.model.get_submodule(above), name, layers)

    def read(self, names: list[str]) -> None:
        """Give a part its weights, unless it has them."""
        state = self.model.state_dict()
        missing = {name for name in names if state[name].is_meta}
        if not missing:
            return
        with self._checkpoint.pieces(n for n, to in self._parameters.items() if to in missing) as pieces:
            fill(self.model, pieces, self._dtype, self._device)
        if missing & self.model.all_tied_weights_keys.keys():
            tie(self.model)
        state = self.model.state_dict()
        require_whole(self.model, self._name, (n for n in names if state[n].is_meta))


def _layers_of(model: Any) -> tuple[str | None, Any]:
    """The model's list of layers, which is its largest one, and where it is; None where it has no list."""
    lists = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.ModuleList)]
    return max(lists, key=lambda named: sum(p.numel() for p in named[1].parameters()), default=(None, None))


def _give_out(model: Any, names: list[str], device: str, hold: Callable[[nn.Parameter], None] | None) -> None:
    """Make room for a part where it has no weights, give its parameters to `hold`, and send its buffers to all."""
    made: dict[int, nn.Parameter] = {}
    for name in names:
        above, _, own = name.rpartition(".")
        module = model.get_submodule(above)
        tensor = getattr(module, own)
        if not isinstance(tensor, nn.Parameter):
            module._buffers[own] = tensor = torch.empty_like(tensor, device=device) if tensor.is_meta else tensor
            dist.broadcast(tensor, src=0)
            continue
        if tensor.is_meta:
            made.setdefault(id(tensor), nn.Parameter(torch.empty_like(tensor, device=device)))
            module._parameters[own] = made[id(tensor)]
        if hold is not None:
            hold(module._parameters[own])
