"""A student's initial weights, made once and kept: its control starts from the same ones, and they are measured too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from workers.model_files import model_folder
from workers.student.config import ModelConfig
from workers.student.models.continued import continued
from workers.student.models.dropped_layers import drop_layers
from workers.student.models.merged_experts import merge_experts

_ANSWER_TOKENS = 64
"""Tokens that a mixture goes on with after each prompt, before its experts are measured on both."""


def make_initial(
    config: ModelConfig,
    out: Path,
    *,
    vocabulary: int,
    seed: int,
    sample_ids: list[list[int]],
    prompt_token_ids: list[list[int]] = [],
) -> dict[str, Any]:
    """Write a student's initial weights to a safetensors folder; returns facts (parameters, layers dropped, merges).

    `vocabulary` is the tokenizer's number of ids. `sample_ids` are texts for measuring which layers and which experts
    matter; `prompt_token_ids` are prompts that a mixture answers first, for the same.
    """
    if config.config is not None:
        model, facts = _random(config, vocabulary, seed)
    else:
        model, facts = _given(config, seed, sample_ids, prompt_token_ids)
    if model.config.vocab_size < vocabulary:
        raise ValueError(
            f"model: its vocabulary of {model.config.vocab_size} cannot hold the tokenizer's {vocabulary} ids"
        )
    model.save_pretrained(out)
    return {**facts, "parameters": sum(p.numel() for p in model.parameters()), "layers": model.config.num_hidden_layers}


def new_config(settings: dict[str, Any], vocabulary: int) -> Any:
    """The transformers configuration of a model of given sizes; its vocabulary is the tokenizer's unless they say."""
    from transformers import AutoConfig

    sizes = {"vocab_size": vocabulary, **settings}
    return AutoConfig.for_model(sizes.pop("model_type"), **sizes)


def _random(config: ModelConfig, vocabulary: int, seed: int) -> tuple[Any, dict[str, Any]]:
    """A new model of the given sizes."""
    from transformers import AutoModelForCausalLM

    assert config.config is not None
    torch.manual_seed(seed)
    return AutoModelForCausalLM.from_config(new_config(config.config, vocabulary)), {}


def _given(
    config: ModelConfig, seed: int, texts: list[list[int]], prompts: list[list[int]]
) -> tuple[Any, dict[str, Any]]:
    """A model that is there, made dense where it is a mixture, without the layers that it is to lose."""
    from transformers import AutoModelForCausalLM

    folder = model_folder(str(config.source), config.revision)
    dtype = torch.float32 if config.base is not None else "auto"  # a mixture may be large; it is read, not trained
    base, found = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, output_loading_info=True)
    _check_whole(str(config.source), found)
    model, facts = base, {}
    if config.merge_experts is not None:
        texts = [*texts, *continued(base, prompts, _ANSWER_TOKENS, seed)]
        model, facts = merge_experts(base, config.merge, config.merged_width, texts)
    if config.drop_layers:
        facts["dropped_layers"], facts["kl_to_base"] = drop_layers(model, config.drop_layers, texts, whole=base)
    return model, facts


def _check_whole(source: str, found: dict[str, Any]) -> None:
    """Every weight was in the files: transformers makes up those that are not, and only logs it."""
    for what, names in (("lack", found["missing_keys"]), ("have another shape of", found["mismatched_keys"])):
        if names:
            shown = ", ".join(sorted(str(name) for name in names)[:3])
            raise ValueError(
                f"model: the files of {source!r} {what} {len(names)} of the model's weights ({shown} ...); fetch them "
                "again, or make config.json say what they hold"
            )
