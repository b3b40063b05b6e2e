"""What must hold of the folders that models are loaded from: whole weights, readable settings, sizes that agree.
Reads headers only, and imports no torch."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from orchestrator.config.schema import RunConfig
from workers.fetching.folder import model_folder
from workers.fetching.names import is_remote
from workers.model_files import expert_count, read_json_object, read_model_config
from workers.model_sizes import weights_fault

_ALSO_READ = ("generation_config.json", "special_tokens_map.json", "added_tokens.json", "tokenizer_config.json")
"""What transformers reads beside config.json and tokenizer.json where it is there."""

_COUNTS = (
    *("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads"),
    *("head_dim", "vocab_size", "max_position_embeddings", "num_experts_per_tok", "moe_intermediate_size"),
)


def check_model_folder(where: str, model: str, folder: Path) -> None:
    """Raise ValueError, naming `where` in the settings, if a model's folder cannot be loaded as it is."""
    if (folder / "adapter_config.json").exists():
        raise ValueError(
            f"{where}: {model!r} holds adapters (adapter_config.json), which are no model; merge them into their base "
            "(peft: merge_and_unload(), save_pretrained()) and name that folder"
        )
    try:
        config = read_model_config(folder)
        expert_count(config)
        for name in _ALSO_READ:
            if (folder / name).exists():
                read_json_object(folder / name)
    except ValueError as error:
        said, remedy = str(error).removeprefix("model: "), "fetch it again"
        if is_remote(model):
            said, remedy = said.replace(str(folder), model), "upload it again"
        raise ValueError(f"{where}: {said}; {remedy}") from None
    _check_counts(where, model, config)
    whole = os.path.isdir(os.path.expanduser(model))  # what is not on this machine is downloaded when it is needed
    if (fault := weights_fault(folder, int(config.get("num_hidden_layers") or 0), whole=whole)) is not None:
        raise ValueError(f"{where}: {fault}")


def check_sources(config: RunConfig) -> None:
    """The folders that students start from."""
    for name, specialist in config.specialists.items():
        model = specialist.model
        if model.source is None:
            continue
        where = f"specialists.{name}.model.{'base' if model.base is not None else 'merge_experts'}"
        try:
            folder = model_folder(model.source, model.revision, weights=False)
        except ValueError as error:
            raise ValueError(f"specialists.{name}.model: {error}") from None
        check_model_folder(where, model.source, folder)
        _check_plain(where, model.source, read_model_config(folder))


def _check_plain(where: str, model: str, config: dict[str, Any]) -> None:
    """A base's weights are numbers that can be trained. (Of a mixture, why_not_merge says it.)"""
    quantised = config.get("quantization_config")
    if quantised and where.endswith(".base"):
        method = quantised.get("quant_method", "of some kind") if isinstance(quantised, dict) else "of some kind"
        raise ValueError(
            f"{where}: the weights of {model!r} are quantised ({method}), and quantised weights are not trained; name "
            "an unquantised copy"
        )


def _check_counts(where: str, model: str, config: dict[str, Any]) -> None:
    for key in _COUNTS:
        value = config.get(key)
        if value is not None and not isinstance(value, list) and (type(value) is not int or value < 1):
            raise ValueError(
                f"{where}: the config.json of {model!r} says {key}: {value!r}; expected a whole number from 1"
            )
