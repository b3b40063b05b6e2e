"""A causal language model of whose decoder layers only those at work, and as many more as a given memory holds, are
loaded; texts go through it layer by layer.

Legend: B texts, S tokens, D hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from workers.fetching.folder import model_folder
from workers.streaming.checkpoint import Checkpoint, fill, require_whole, tie

_OF_LAYERS = ("attention_mask", "past_key_values", "use_cache")
"""Inputs of a model that its layers alone make use of."""


@dataclass
class Call:
    """Texts on their way through a model: what the last layer put out, and what else each layer is given."""

    inputs: dict[str, Any]
    hidden_BSD: Tensor
    arguments: list[tuple[tuple[Any, ...], dict[str, Any]]]

    def run(self, layer: nn.Module, index: int) -> None:
        """Let the next layer, which is the `index`-th, work on the texts."""
        others, named = self.arguments[index]
        self.hidden_BSD = layer(self.hidden_BSD, *others, **named)


class LayeredModel:
    """Embeddings, norms and head are held; decoder layers are read from the files when they are asked for."""

    def __init__(self, causal_lm: Any, files: _Files | None = None) -> None:
        """`causal_lm` is whole, or has no memory where there are `files`."""
        self.causal_lm = causal_lm
        self.config = causal_lm.config
        self._files = files
        self._tried = False

    @staticmethod
    def from_files(
        source: str,
        revision: str | None = None,
        *,
        dtype: torch.dtype | None = None,
        device: str = "cpu",
        memory: int = 0,
    ) -> LayeredModel:
        """The model of a folder, or of a Hugging Face id and revision. `dtype` None is its own; `memory` is how many
        bytes of layers are kept once they were read. Raises ValueError for files that lack weights or do not fit."""
        checkpoint = Checkpoint(model_folder(source, revision))
        model = checkpoint.empty_model(dtype, device)
        return LayeredModel(model, _Files(model, checkpoint, source, model.config.dtype, device, memory))

    def __len__(self) -> int:
        return len(self.causal_lm.get_decoder().layers)

    @contextmanager
    def layer(self, index: int) -> Iterator[Any]:
        """A decoder layer with its weights, for the length of a block."""
        layer = self.causal_lm.get_decoder().layers[index]
        if self._files is not None:
            self._files.load(index)
        try:
            yield layer
        finally:
            if self._files is not None:
                self._files.free(index, layer)

    def layers(self) -> Iterator[tuple[int, Any]]:
        """Each layer after the one before, with its weights until the next is asked for."""
        for index in range(len(self)):
            with self.layer(index) as layer:
                yield index, layer

    def release(self) -> None:
        """Forget the layers that were kept."""
        if self._files is not None:
            self._files.release(self.causal_lm.get_decoder().layers)

    @torch.no_grad()
    def begin(self, **inputs: Any) -> Call:
        """Texts, as the model takes them, before its first layer.

        Raises ValueError for an architecture whose layers are given more than hidden states by those before them.
        """
        arguments, (first_BSD, *_) = self._walk(inputs)
        if not (self._tried or _same(arguments, self._walk(inputs, change=True)[0])):
            raise ValueError(
                f"model: {self.config.model_type} cannot be run layer by layer: its layers are given more by those "
                "before them than hidden states"
            )
        self._tried = True
        return Call(inputs, first_BSD, arguments)

    @torch.no_grad()
    def logits(self, call: Call, **options: Any) -> Tensor:
        """Logits [B, S, V] of texts that all layers worked on. `options` go to the model (`logits_to_keep`)."""
        inputs = {name: value for name, value in call.inputs.items() if name not in _OF_LAYERS}
        with self._stand_ins(lambda index, hidden_BSD, *_, **__: call.hidden_BSD):
            return self.causal_lm(**inputs, use_cache=False, **options).logits

    def _walk(self, inputs: dict[str, Any], change: bool = False) -> tuple[list[Any], list[Tensor]]:
        """What the decoder gives to each layer beside hidden states, and these, where layers `change` them or not."""
        arguments: list[Any] = []
        hidden: list[Tensor] = []

        def note(index: int, hidden_BSD: Tensor, *others: Any, **named: Any) -> Tensor:
            arguments.append((others, named))
            hidden.append(hidden_BSD)
            return hidden_BSD * 0.5 + 1 if change else hidden_BSD

        with self._stand_ins(note):
            self.causal_lm.get_decoder()(**inputs)
        return arguments, hidden

    @contextmanager
    def _stand_ins(self, forward: Any) -> Iterator[None]:
        """For the length of a block, `forward(index, hidden, ...)` works in the place of each layer."""
        layers = list(self.causal_lm.get_decoder().layers)
        for index, layer in enumerate(layers):
            layer.forward = lambda *args, index=index, **named: forward(index, *args, **named)
        try:
            yield
        finally:
            for layer in layers:
                del layer.forward


class _Files:
    """Fills the layers of a model without memory, and takes their weights from them again."""

    def __init__(
        self, model: Any, checkpoint: Checkpoint, source: str, dtype: torch.dtype, device: str, memory: int
    ) -> None:
        self._model, self._checkpoint, self._source = model, checkpoint, source
        self._dtype, self._device, self._left = dtype, device, memory
        self._kept: set[int] = set()
        decoder = model.get_decoder()
        self._prefix = next(name for name, module in model.named_modules() if module is decoder.layers) + "."
        self._names: dict[int | None, list[str]] = {}
        for name, parameter in checkpoint.parameters_of(model).items():
            self._names.setdefault(self._layer_of(parameter), []).append(name)
        self._fill(None)

    def load(self, index: int) -> None:
        """Read a layer's weights, unless they are there."""
        if index not in self._kept:
            self._fill(index)

    def free(self, index: int, layer: nn.Module) -> None:
        """Forget a layer's weights, unless there is memory to keep them."""
        if index in self._kept:
            return
        size = sum(tensor.nbytes for tensor in layer.state_dict().values())
        if size <= self._left:
            self._left -= size
            self._kept.add(index)
        else:
            forget(layer)

    def release(self, layers: Any) -> None:
        """Forget all that was kept; nothing is kept from now on."""
        self._left = 0
        while self._kept:
            forget(layers[self._kept.pop()])

    def _fill(self, index: int | None) -> None:
        """Read a layer's weights, or all that are in no layer."""
        with self._checkpoint.pieces(self._names.get(index, [])) as pieces:
            fill(self._model, pieces, self._dtype, self._device)
        if index is None:
            tie(self._model)
        state = self._model.state_dict()
        lacking = [n for n, tensor in state.items() if tensor.is_meta and self._layer_of(n) == index]
        require_whole(self._model, self._source, lacking)

    def _layer_of(self, parameter: str) -> int | None:
        """The layer that a parameter is in, by its name."""
        if not parameter.startswith(self._prefix):
            return None
        return int(parameter.removeprefix(self._prefix).split(".", 1)[0])


def forget(layer: nn.Module) -> None:
    """Take the weights from a layer, and leave it their shapes."""
    for module in layer.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                module._parameters[name] = nn.Parameter(_on_meta(parameter), requires_grad=False)
        for name, buffer in module._buffers.items():
            if buffer is not None and name not in module._non_persistent_buffers_set:
                module._buffers[name] = _on_meta(buffer)


def _on_meta(tensor: Tensor) -> Tensor:
    return torch.empty_like(tensor, device="meta")


def _same(one: Any, other: Any) -> bool:
    """Whether two records are equal, tensors to the bit; objects of other kinds are compared by themselves."""
    if isinstance(one, Tensor):
        return isinstance(other, Tensor) and torch.equal(one, other)
    if isinstance(one, dict):
        return isinstance(other, dict) and one.keys() == other.keys() and all(_same(one[k], other[k]) for k in one)
    if isinstance(one, list | tuple):
        return type(one) is type(other) and len(one) == len(other) and all(map(_same, one, other))
    return bool(one is other or one == other)
