"""The model that a student will be, without its weights: from the same settings that its initial weights come from."""

from __future__ import annotations

import copy
from typing import Any

import torch

from workers.fetching.folder import model_folder
from workers.model_files import read_model_config
from workers.streaming.read_once import first_of_each_kind
from workers.student.config import ModelConfig
from workers.student.models.dense_sibling import active_width, dense_config, expert_width
from workers.student.models.initial import new_config

_VOCABULARY = 512
"""Ids of a model that is made smaller to be tried."""


def planned_config(model: ModelConfig, vocabulary: int) -> Any:
    """The transformers configuration of a student, for a tokenizer of `vocabulary` ids.

    Raises what transformers raises where it cannot be one.
    """
    from transformers import AutoConfig

    if model.config is not None:
        return new_config(model.config, vocabulary)
    folder = model_folder(str(model.source), model.revision, weights=False)
    if model.merge_experts is not None:
        mixture = read_model_config(folder)
        own = expert_width(mixture) if model.merge == "average" else active_width(mixture)
        config = AutoConfig.for_model(**dense_config(mixture, model.merged_width or own))
    else:
        config = AutoConfig.from_pretrained(folder)
    dropped = len(model.drop_layers) if isinstance(model.drop_layers, list) else model.drop_layers
    return with_layers(config, config.get_text_config().num_hidden_layers - dropped) if dropped else config


def on_meta(config: Any, *, trust_remote_code: bool = False) -> Any:
    """A model whose tensors have shapes and no memory."""
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)


def parameters(model: Any) -> int:
    """How many weights a model has."""
    return sum(p.numel() for p in model.parameters())


def made_small(config: Any) -> Any:
    """A configuration with the same layers, but only so many of them that each kind is there, and few ids."""
    small = with_layers(config, first_of_each_kind(config))
    inner = small.get_text_config()
    inner.vocab_size = min(inner.vocab_size, _VOCABULARY)
    for name in ("pad_token_id", "bos_token_id", "eos_token_id"):  # an embedding refuses padding that it has not
        setattr(inner, name, None)
    return small


def with_layers(config: Any, layers: int) -> Any:
    """A configuration with the first so many layers."""
    config = copy.deepcopy(config)
    text = config.get_text_config()
    text.num_hidden_layers = layers
    if getattr(text, "layer_types", None):
        text.layer_types = text.layer_types[:layers]
    return config
