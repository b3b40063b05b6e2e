"""What must hold of the models that students start from, before anything is loaded. Imports no torch."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from orchestrator.config.schema import RunConfig
from orchestrator.preflight.memory import linear_layers
from orchestrator.preflight.model_folders import check_model_folder
from workers.fetching.folder import model_folder
from workers.fingerprint import tokenizer_fingerprint
from workers.model_files import expert_count, known_model_type, read_model_config
from workers.student.config import LoraConfig, ModelConfig
from workers.student.models.dense_sibling import SIBLINGS, expert_width, why_not_merge


def check_students(config: RunConfig, tokenizer: str) -> None:
    """All checks of the models that students start from, and of those that are only measured; raises ValueError.
    `tokenizer` is the fingerprint of the teacher's."""
    for name, measured in config.evaluate.models.items():
        where = f"evaluate.models.{name}"
        folder = _same_tokenizer(config, where, measured.model, measured.revision, tokenizer)
        check_model_folder(f"{where}.model", measured.model, folder)
    for name, specialist in config.specialists.items():
        model, where = specialist.model, f"specialists.{name}.model"
        if model.source is None:
            _check_architecture(f"{where}.config", (model.config or {}).get("model_type"))
            continue
        folder = _same_tokenizer(config, where, model.source, model.revision, tokenizer)
        model_config = read_model_config(folder)
        if model_config:
            _check_architecture(where, model_config.get("model_type"))
        _check_dropped(where, model.drop_layers, int(model_config.get("num_hidden_layers", 0)))
        _check_experts(where, model, model_config, folder)
        if model.lora is not None:
            _check_lora(where, model.lora, sorted(linear_layers(model, folder, model_config)))


def _same_tokenizer(config: RunConfig, where: str, model: str, revision: str | None, tokenizer: str) -> Path:
    """The folder of a model with the teacher's tokenizer, weights or not. Raises ValueError."""
    try:
        folder = model_folder(model, revision, weights=False)
        own = tokenizer_fingerprint(folder)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    if own != tokenizer:
        teacher = config.teachers[config.first_teacher()].model
        raise ValueError(
            f"{where}: the tokenizer of {model!r} ({own[:12]}) is not the teacher's, {teacher!r} ({tokenizer[:12]}): "
            "its ids would mean other words. Choose a model of the teacher's family"
        )
    return folder


def _check_architecture(where: str, model_type: object) -> None:
    if not isinstance(model_type, str) or not known_model_type(model_type):
        raise ValueError(
            f"{where}.model_type: {model_type!r} is no architecture of the installed transformers, and code that comes "
            "with a model is not run for students; take for example qwen3, llama or gemma3_text"
        )


def _check_experts(where: str, model: ModelConfig, model_config: dict[str, Any], folder: Path) -> None:
    """A base is dense, and a mixture is one that can be made dense."""
    experts = expert_count(model_config)
    if model.merge_experts is None:
        if experts:
            raise ValueError(
                f"{where}: {model.base!r} is a mixture of {experts} experts; students are dense. Write merge_experts "
                "instead of base to make one of it"
            )
        return
    if any(folder.glob("*.bin")) and not any(folder.glob("*.safetensors")):
        raise ValueError(
            f"{where}.merge_experts: {model.merge_experts!r} has no safetensors files, from which a mixture is read "
            "in parts; save it again (transformers: from_pretrained, then save_pretrained)"
        )
    if experts == 0:
        raise ValueError(f"{where}.merge_experts: {model.merge_experts!r} is a dense model; write base instead")
    if reason := why_not_merge(model_config):
        raise ValueError(
            f"{where}.merge_experts: {model.merge_experts!r}: {reason}. Known are {', '.join(SIBLINGS)}; or start from "
            "a dense model (base) or from random weights (config)"
        )
    most = experts * expert_width(model_config)
    if model.merged_width is not None and model.merged_width > most:
        raise ValueError(
            f"{where}.merged_width: {model.merged_width} neurons, and a layer's experts have {most} together; give "
            f"{most} or less"
        )


def _check_lora(where: str, lora: LoraConfig, there: list[str]) -> None:
    """peft is installed, and the layers exist. `there` is empty where the weights are not downloaded yet."""
    if importlib.util.find_spec("peft") is None:
        raise ValueError(
            f"{where}.lora: the package peft is not installed; pip install 'stillhouse[lora]' here and on the nodes "
            "that train, or take lora out"
        )
    if there and (missing := [target for target in lora.targets if target not in there]):
        raise ValueError(f"{where}.lora.targets: {missing} are no linear layers of the decoder; there are {there}")


def _check_dropped(where: str, drop: int | list[int], layers: int) -> None:
    if not drop or not layers:
        return
    wrong = [i for i in drop if not 0 <= i < layers] if isinstance(drop, list) else not 0 <= drop < layers
    if wrong or (isinstance(drop, list) and len(set(drop)) >= layers):
        raise ValueError(
            f"{where}.drop_layers: {drop} of {layers} layers; give a number below "
            f"{layers}, or indices 0 to {layers - 1}"
        )
