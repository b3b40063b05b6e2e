"""A dense model that is made of a mixture layer by layer: each layer goes to a file, and texts go through it, so that
its KL to the mixture is known when the last one is made. Legend: D hidden size, W neurons of the dense MLP, V
vocabulary."""

from __future__ import annotations

import copy
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from workers.streaming.checkpoint import make_buffers, without_memory
from workers.streaming.layered_model import Call, LayeredModel, forget
from workers.student.models.dense_sibling import dense_config


@dataclass(frozen=True)
class Mlp:
    """A gated MLP without biases."""

    gate_WD: Tensor
    up_WD: Tensor
    down_DW: Tensor


@dataclass(frozen=True)
class Others:
    """What a mixture has in no layer (embeddings, norm, head), as it is and in float32: its dense siblings' too."""

    own: dict[str, Tensor]
    wide: dict[str, Tensor]

    @staticmethod
    def of(mixture: LayeredModel) -> Others:
        """Those of a mixture, whose layers may be in files."""
        moe = mixture.causal_lm
        prefix = next(name for name, module in moe.named_modules() if module is moe.get_decoder().layers) + "."
        own = {name: tensor for name, tensor in moe.state_dict().items() if not name.startswith(prefix)}
        wide = {tensor.data_ptr(): tensor.float() for tensor in own.values()}  # tied weights stay one
        return Others(own, {name: wide[tensor.data_ptr()] for name, tensor in own.items()})


@dataclass(frozen=True)
class DenseFiles:
    """A dense model: one file for each layer, and what is in none."""

    folder: Path
    config: Any
    others: Others
    generation_config: Any

    def load(self) -> Any:
        """The model, in the type that the mixture has."""
        model = without_memory(self.config, self.config.dtype)
        make_buffers(model, "cpu")
        for index, layer in enumerate(model.get_decoder().layers):
            layer.load_state_dict(load_file(self.folder / f"{index}.safetensors"), assign=True)
        model.load_state_dict(self.others.own, strict=False, assign=True)
        model.tie_weights()
        model.generation_config = copy.deepcopy(self.generation_config)
        return model

    def delete(self) -> None:
        """Forget the files."""
        shutil.rmtree(self.folder)


class DenseInTheMaking:
    """A dense sibling of a mixture, with `width` neurons in each MLP, and texts on their way through it."""

    def __init__(self, mixture: LayeredModel, width: int, texts: list[list[int]], others: Others, folder: Path) -> None:
        from transformers import AutoConfig

        folder.mkdir(parents=True)
        moe = mixture.causal_lm
        self._dtype = next(moe.parameters()).dtype
        config = AutoConfig.for_model(**dense_config(moe.config.to_dict(), width), dtype=self._dtype)
        dense = without_memory(copy.deepcopy(config), torch.float32)
        make_buffers(dense, "cpu")
        dense.load_state_dict(others.wide, strict=False, assign=True)
        dense.tie_weights()
        self.files = DenseFiles(folder, config, others, moe.generation_config)
        self._dense = LayeredModel(dense)
        self._calls = [self._dense.begin(input_ids=torch.tensor([text]), use_cache=False) for text in texts]

    def take(self, index: int, mixture_layer: Any, mlp: Mlp) -> None:
        """Make a layer of the mixture's and an MLP, write it, and let the texts pass it."""
        with self._dense.layer(index) as layer:
            own = layer.state_dict()
            state = {name: tensor for name, tensor in mixture_layer.state_dict().items() if name in own}
            state |= {"mlp.gate_proj.weight": mlp.gate_WD, "mlp.up_proj.weight": mlp.up_WD}
            state["mlp.down_proj.weight"] = mlp.down_DW
            written = {name: tensor.to(self._dtype).contiguous() for name, tensor in state.items()}
            save_file(written, self.files.folder / f"{index}.safetensors")
            layer.load_state_dict({name: tensor.float() for name, tensor in written.items()}, assign=True)
            for call in self._calls:
                call.run(layer, index)
            forget(layer)

    def kl(self, mixture: LayeredModel, calls: list[Call]) -> float:
        """Mean KL(mixture || dense) in nats a token, when all layers are made; `calls` are the texts in the mixture."""
        total, tokens = 0.0, 0
        for theirs, own in zip(calls, self._calls, strict=True):
            p, q = (m.logits(c).float().log_softmax(-1) for m, c in ((mixture, theirs), (self._dense, own)))
            total += float((p.exp() * (p - q)).sum())
            tokens += theirs.hidden_BSD.shape[1]
        return total / tokens
