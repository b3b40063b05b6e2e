"""The single-expert teacher: one expert per layer kept, its router and the other experts removed.

It answers a question that every newcomer asks: why not cut the medical expert out of the teacher? Experts share a
residual stream that was trained with two or more of them adding up under a router; alone, one is not a model.
"""

from __future__ import annotations

import copy
import re
from typing import Any

import torch

from workers.model_files import EXPERT_KEYS

_LAYER = re.compile(r"layers\.(\d+)\.")


@torch.no_grad()
def favourite_experts(model: Any, texts: list[torch.Tensor]) -> list[int]:
    """The expert that each sparse layer routes most of the texts' tokens to. `texts` are id tensors [1, S]."""
    counts: list[torch.Tensor] = []
    for ids_1S in texts:
        routed = model(input_ids=ids_1S.to(model.device), output_router_logits=True, use_cache=False).router_logits
        chosen = [
            layer.reshape(-1, layer.shape[-1]).topk(model.config.num_experts_per_tok, -1).indices for layer in routed
        ]
        now = [torch.bincount(c.flatten(), minlength=r.shape[-1]) for c, r in zip(chosen, routed, strict=True)]
        counts = [a + b for a, b in zip(counts, now, strict=True)] if counts else now
    return [int(c.argmax()) for c in counts]


def cut_to_single_expert(model: Any, keep: list[int]) -> Any:
    """A model of the same architecture with one expert per sparse layer: `keep[i]` of the i-th."""
    config = copy.deepcopy(model.config)
    name = next(k for k in EXPERT_KEYS if getattr(config, k, None))
    setattr(config, name, 1)
    config.num_experts_per_tok = 1
    small = type(model)(config)
    state, sparse_layers = {}, sorted({_layer(k) for k in model.state_dict() if ".experts." in k})
    whole = model.state_dict()
    for key, tensor in small.state_dict().items():
        source = whole[key]
        if source.shape != tensor.shape:
            expert = keep[sparse_layers.index(_layer(key))]
            source = source[expert : expert + 1]
        state[key] = source
    small.load_state_dict(state)
    return small.to(model.dtype).eval()


def _layer(key: str) -> int:
    match = _LAYER.search(key)
    assert match is not None, key
    return int(match[1])
