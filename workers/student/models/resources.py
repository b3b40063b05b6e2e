"""What making initial weights takes: memory, from configurations and headers of files alone, and a place. No torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.resources import MEMORY, ResourceRequest, group_request
from workers.fetching.folder import model_folder
from workers.model_files import expert_count, read_model_config
from workers.model_sizes import PROCESS_BYTES, stored_width, tensor_shapes
from workers.student.config import InitialConfig, ModelConfig
from workers.student.models.dense_sibling import active_width, expert_width

SAMPLE_TEXTS, SAMPLE_TOKENS = 96, 192
"""Texts, and tokens of each at most, on which layers and experts are measured: more tokens than an MLP has neurons."""

ANSWER_TOKENS = 64
"""Tokens that a mixture goes on with after each prompt, before its experts are measured on both."""

_TOKENS = SAMPLE_TEXTS * (SAMPLE_TOKENS + ANSWER_TOKENS)

_RECTANGLE = 4 * 64
"""Tokens on which layers are left out (dropped_layers.py)."""


def resource_request(models: list[ModelConfig], settings: InitialConfig) -> ResourceRequest | None:
    """The place of the process that makes the initial weights of students of these models; None where all are random,
    which takes next to nothing."""
    size = initial_bytes(models, settings)
    if not size:
        return None
    request = group_request(1, settings.cpus, 0, "PACK", {})
    return ResourceRequest(({**request.bundles[0], MEMORY: size},), request.strategy, request.labels)


def initial_bytes(models: list[ModelConfig], settings: InitialConfig) -> int:
    """Bytes that the process holds at most; 0 where no model has a source."""
    by_source: dict[tuple[str | None, str | None, str | None], list[ModelConfig]] = {}
    for model in models:
        if model.source is not None:
            by_source.setdefault((model.base, model.merge_experts, model.revision), []).append(model)
    sizes = [_bytes_of(group, settings.memory) for group in by_source.values()]
    return max(sizes) + PROCESS_BYTES if sizes else 0


def mixture_reads(model: ModelConfig, settings: InitialConfig) -> tuple[int, int]:
    """Bytes of the layers of a mixture, and how many of them are read again for each token of the answers."""
    sizes = _sizes(model)
    return sizes.layers, max(0, sizes.layers - settings.memory)


@dataclass(frozen=True)
class _Sizes:
    """Of a model's files: bytes of a number, of all layers, and of what is in none; and its configuration."""

    width: int
    layers: int
    others: int
    config: dict[str, Any]

    @property
    def layer(self) -> int:
        return self.layers // max(1, int(self.config.get("num_hidden_layers") or 1))


def _sizes(model: ModelConfig) -> _Sizes:
    folder = model_folder(str(model.source), model.revision, weights=False)
    config = read_model_config(folder)
    width = stored_width(config)
    in_layers, in_none = _counted(folder) or _estimated(config)
    return _Sizes(width, in_layers * width, in_none * width, config)


def _counted(folder: Path) -> tuple[int, int] | None:
    """Parameters in layers and in none, by the headers of the files; None where these are not downloaded yet."""
    shapes = tensor_shapes(folder)
    in_layers = sum(math.prod(shape) for name, shape in shapes.items() if ".layers." in name)
    return (in_layers, sum(map(math.prod, shapes.values())) - in_layers) if in_layers else None


def _estimated(config: dict[str, Any]) -> tuple[int, int]:
    """The same by a configuration: attention, and gated MLPs or experts."""
    hidden, heads = int(config.get("hidden_size") or 0), int(config.get("num_attention_heads") or 1)
    head = int(config.get("head_dim") or hidden // heads)
    attention = hidden * head * (2 * heads + 2 * int(config.get("num_key_value_heads") or heads))
    wide = expert_width(config) * expert_count(config) if expert_count(config) else config.get("intermediate_size") or 0
    layers = int(config.get("num_hidden_layers") or 0) * (attention + 3 * hidden * int(wide))
    return layers, int(config.get("vocab_size") or 0) * hidden * (1 if config.get("tie_word_embeddings") else 2)


def _bytes_of(group: list[ModelConfig], memory: int) -> int:
    """What is held for all that start from one model."""
    sizes = _sizes(group[0])
    logits = _RECTANGLE * int(sizes.config.get("vocab_size") or 0) * 4
    if group[0].merge_experts is None:
        whole, dropping = sizes.layers + sizes.others, any(model.drop_layers for model in group)
        return whole + (4 * (sizes.layer + sizes.others) // sizes.width + 5 * logits if dropping else 0)
    others = sizes.others * (1 + 4 // sizes.width)  # in float32 too, for the dense models
    # A layer's experts are there twice while they are put together, and in float32 for their average.
    at_work = sizes.layer * (2 + 4 // sizes.width)
    merging = min(memory, sizes.layers) + at_work + sum(_texts(model, sizes) for model in group)
    merging += max(_fit(model, sizes) for model in group)
    made = max(_dense(model, sizes) for model in group) + sizes.others
    return others + max(merging, made) + 5 * logits


def _texts(model: ModelConfig, sizes: _Sizes) -> int:
    """Of one student's texts on their way through the layers: states, keys and values."""
    config = sizes.config
    hidden, heads = int(config["hidden_size"]), int(config["num_attention_heads"])
    head = int(config.get("head_dim") or hidden // heads)
    kept = 2 * int(config.get("num_key_value_heads") or heads) * head * int(config["num_hidden_layers"])
    return _TOKENS * (kept + 3 * hidden) * sizes.width


def _fit(model: ModelConfig, sizes: _Sizes) -> int:
    """Of the fit of one layer's output weights: neurons of all tokens, and their squares in two precisions."""
    wide, hidden = _width(model, sizes.config), int(sizes.config["hidden_size"])
    if model.merge == "average":
        return 0
    return _TOKENS * (3 * wide + 4 * hidden) * 4 + 40 * wide**2 + 12 * hidden * wide


def _dense(model: ModelConfig, sizes: _Sizes) -> int:
    """Of a student's own layers, and of one in float32 where layers are left out."""
    experts = 3 * int(sizes.config["hidden_size"]) * expert_width(sizes.config) * expert_count(sizes.config)
    own = 3 * int(sizes.config["hidden_size"]) * _width(model, sizes.config)
    layer = sizes.layer + (own - experts) * sizes.width
    return layer * int(sizes.config["num_hidden_layers"]) + (4 * layer // sizes.width if model.drop_layers else 0)


def _width(model: ModelConfig, config: dict[str, Any]) -> int:
    return expert_width(config) if model.merge == "average" else model.merged_width or active_width(config)
