"""A teacher's LM head beside its hidden states: from both, its exact distributions on whatever device asks.

A hidden state of 2,048 numbers in bfloat16 takes 4 kB where the log-probabilities of 151,936 ids take 608 kB, and the
head is the same for all of them. It is kept once, of the tokenizer's ids alone.

Legend: n positions, H hidden size, V the tokenizer's ids.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.torch import load, save
from torch import Tensor

from workers.fetching.weights import tensor_of_folder
from workers.logit_map import LogitMap, logit_map

if TYPE_CHECKING:
    from workers.targets.store import TargetStore

_ROWS = 64
"""Positions whose logits are float64 at once."""

_BLOCK_NUMBERS = 1 << 19
"""Weights that a CPU widens at once: few enough to stay in its cache, where that costs nothing beside the product."""

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class TeacherHead:
    """What makes logits of a teacher's last hidden states."""

    weight_VH: Tensor
    bias_V: Tensor | None
    logits: LogitMap

    def on(self, device: str) -> TeacherHead:
        """The same in float32 on a device, so that products are not rounded to what weights are kept in."""
        bias_V = None if self.bias_V is None else self.bias_V.to(device, torch.float32)
        return TeacherHead(self.weight_VH.to(device, torch.float32), bias_V, self.logits)

    def to(self, device: str) -> TeacherHead:
        """The same on a device, in the type that it has."""
        bias_V = None if self.bias_V is None else self.bias_V.to(device)
        return TeacherHead(self.weight_VH.to(device), bias_V, self.logits)

    @torch.no_grad()
    def make_logits(self, h_nH: Tensor) -> Tensor:
        """Logits [n, V], float32, of hidden states on the head's device. The head stays in its own type: products of
        such numbers are exact in float32, in which they are summed."""
        W_VH, h_nH = self.weight_VH, h_nH.to(self.weight_VH.dtype)
        if W_VH.dtype == torch.float32:
            z_nV = torch.nn.functional.linear(h_nH, W_VH, self.bias_V)
        else:
            z_nV = _mixed_product(h_nH, W_VH)
            z_nV = z_nV if self.bias_V is None else z_nV.add_(self.bias_V)
        self.logits.apply_(z_nV)
        return z_nV

    @torch.no_grad()
    def log_probabilities(self, hidden_nH: np.ndarray, precision: str, temperature: float = 1.0) -> Tensor:
        """The teacher's distributions [n, V] over the tokenizer's ids, float32, on the head's device. Hidden states are
        as a store has them (see `as_stored`)."""
        z_nV = self.make_logits(from_stored(hidden_nH, precision).to(self.weight_VH.device))
        return normalised(z_nV / temperature)

    def to_bytes(self) -> bytes:
        """As a safetensors file."""
        tensors = {"weight": self.weight_VH.contiguous()}
        tensors |= {"bias": self.bias_V.contiguous()} if self.bias_V is not None else {}
        return save(tensors, {"logits": json.dumps(vars(self.logits))})

    @staticmethod
    def from_bytes(data: bytes) -> TeacherHead:
        """The inverse of `to_bytes`."""
        tensors, size = load(data), int.from_bytes(data[:8], "little")
        about = json.loads(data[8 : 8 + size])["__metadata__"]
        return TeacherHead(tensors["weight"], tensors.get("bias"), LogitMap(**json.loads(about["logits"])))


def read_head(store: TargetStore, teacher: str, who: str) -> TeacherHead:
    """A teacher's head, out of a `hidden` store. Raises ValueError, which begins with `who`, where it is lost."""
    key = store.head_key(teacher)
    try:
        return TeacherHead.from_bytes(store.storage.read(key))
    except FileNotFoundError:
        raise ValueError(
            f"{who}: {key} is missing, without which hidden states say nothing; run `stillhouse capture`, which writes "
            "it again"
        ) from None


def _mixed_product(h_nH: Tensor, W_VH: Tensor) -> Tensor:
    """h W^T [n, V] of two-byte numbers, as float32. A GPU has a product for that; a CPU widens some rows at a time."""
    if W_VH.is_cuda:
        return torch.mm(h_nH, W_VH.T, out_dtype=torch.float32)
    h_nH, rows = h_nH.float(), max(_BLOCK_NUMBERS // W_VH.shape[1], 1)
    z_nV = torch.empty(len(h_nH), len(W_VH))
    for i in range(0, len(W_VH), rows):
        torch.mm(h_nH, W_VH[i : i + rows].float().T, out=z_nV[:, i : i + rows])
    return z_nV


def normalised(z_nV: Tensor) -> Tensor:
    """Log-probabilities of logits. A float32 sum over 50,000 ids is off by 1e-5, so sums are taken in float64, of a few
    positions at a time."""
    for i in range(0, len(z_nV), _ROWS):
        part = z_nV[i : i + _ROWS]
        part.sub_(part.double().logsumexp(-1, keepdim=True))
    return z_nV


def head_of_folder(
    folder: Path,
    precision: str,
    vocabulary: int,
    *,
    trust_remote_code: bool = False,
    read: Callable[[list[str], int], Tensor | None] | None = None,
) -> TeacherHead:
    """The head of a model's files, of the first `vocabulary` ids, in the type that the teacher computes in.

    Reads nothing else of its weights. `read` gives rows of the first of some tensors that the model has; if not given,
    out of the folder. Raises ValueError where it is not to be found.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
    head = model.get_output_embeddings()
    if not isinstance(head, torch.nn.Linear):
        raise ValueError(f"model: the LM head of {str(folder)!r} is no plain matrix, so that it cannot be kept apart")
    names = dict(model.named_parameters(remove_duplicate=False))
    read = read or partial(tensor_of_folder, folder)

    def tensor(parameter: Any) -> Tensor:
        own = [name for name, other in names.items() if other is parameter]  # the embeddings' too, where they are tied
        if (found := read(own, vocabulary)) is None:
            raise ValueError(f"model: {own[0]} is not in the safetensors files of {str(folder)!r}")
        return found.to(_DTYPES[precision])

    bias_V = None if head.bias is None else tensor(head.bias)
    return TeacherHead(tensor(head.weight), bias_V, logit_map(config.get_text_config()))


def as_stored(hidden_nH: Tensor, precision: str) -> Tensor:
    """Hidden states as a store has them, on their device: float32, or the bits of two-byte numbers (uint16), which
    NumPy and Parquet have no bfloat16 for."""
    values = hidden_nH.detach().to(_DTYPES[precision]).contiguous()
    return values if precision == "float32" else values.view(torch.uint16)


def from_stored(hidden: np.ndarray, precision: str) -> Tensor:
    """The inverse of `as_stored`."""
    values = torch.from_numpy(np.array(hidden))  # Arrow's own may not be written to, which torch cannot promise
    return values if precision == "float32" else values.view(_DTYPES[precision])
