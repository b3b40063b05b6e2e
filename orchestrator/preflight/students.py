"""What must hold of the models that students start from, before anything is loaded. Imports no torch."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from orchestrator.config.schema import RunConfig
from orchestrator.preflight.memory import decoder_of, linear_layers
from orchestrator.preflight.model_folders import check_model_folder
from workers.architectures import architecture
from workers.export.formats import why_not, why_not_here
from workers.fetching.folder import model_folder
from workers.fingerprint import tokenizer_fingerprint
from workers.model_files import expert_count, known_model_type, read_model_config
from workers.model_sizes import tensor_shapes
from workers.quantise.config import QuantisedWeights, RoundingConfig
from workers.student.config import LoraConfig, ModelConfig, SpecialistConfig
from workers.student.models.dense_sibling import SIBLINGS, expert_width, why_not_merge

_FAMILIES = (
    *("llama", "qwen2", "qwen3", "mistral", "gemma", "gemma2", "gemma3_text", "granite", "olmo2", "smollm3"),
    *("ministral", "olmo3"),
)
"""Architectures whose layers have the linear layers of `_widths`."""


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
            _check_roundings(f"specialists.{name}", specialist, None, None)
            continue
        folder = _same_tokenizer(config, where, model.source, model.revision, tokenizer)
        model_config = read_model_config(folder)
        if model_config:
            _check_architecture(where, model_config.get("model_type"))
        _check_dropped(where, model.drop_layers, int(model_config.get("num_hidden_layers", 0)))
        _check_experts(where, model, model_config, folder)
        _check_roundings(f"specialists.{name}", specialist, folder, model_config)
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


def _check_roundings(
    where: str, specialist: SpecialistConfig, folder: Path | None, base: dict[str, Any] | None
) -> None:
    """Of a specialist that begins as its settings `where` say, perhaps from a folder with a configuration `base`. Of
    architectures whose layers are not known here, and of weights that are not downloaded, `validate --deep` and the
    beginning of training tell. Raises ValueError."""
    for key, rounding in specialist.roundings.items():
        widths, hidden = _widths(specialist.model, folder, base)
        try:
            if widths:
                rounding.check_layers(widths)
            rounding.check_rows("rows have", hidden)
        except ValueError as error:
            raise ValueError(f"{where}.{key}.{error}") from None


def _widths(model: ModelConfig, folder: Path | None, base: dict[str, Any] | None) -> tuple[dict[str, int], int]:
    """Inputs of a student's linear layers by full name, none where they are not known; and its hidden size, or 0."""
    config = decoder_of(model, base)
    kind = str(config.get("model_type"))
    known = architecture(kind) if kind in _FAMILIES else None

    def size(name: str) -> int:
        return int((known.value(config, name) if known is not None else config.get(name)) or 0)

    hidden = size("hidden_size")
    if known is not None and hidden:
        heads = size("num_attention_heads")
        attended = heads * (size("head_dim") or hidden // max(heads, 1))
        return dict(_of_layers(size("num_hidden_layers"), hidden, attended, size("intermediate_size"))), hidden
    if folder is None or model.merge_experts is not None:
        return {}, hidden
    shapes = {n: s for n, s in tensor_shapes(folder).items() if ".layers." in n and n.endswith(".weight")}
    return {n.removesuffix(".weight"): s[1] for n, s in shapes.items() if len(s) == 2}, hidden


def _of_layers(layers: int, hidden: int, attended: int, inside: int) -> Iterator[tuple[str, int]]:
    for layer in range(layers):
        prefix = f"model.layers.{layer}"
        yield from ((f"{prefix}.self_attn.{name}_proj", hidden) for name in "qkv")
        yield f"{prefix}.self_attn.o_proj", attended
        yield from ((f"{prefix}.mlp.{name}_proj", hidden) for name in ("gate", "up"))
        yield f"{prefix}.mlp.down_proj", inside


def check_exports(config: RunConfig, teachers: Mapping[str, Path], *, elsewhere: bool) -> None:
    """Every specialist can be written in every format of `export`. `teachers`: their folders, with the tokenizers.
    `elsewhere`: exports are written on another machine, which need not lack what this one lacks. Raises ValueError."""
    for i, export in enumerate(config.export):
        where = f"export.{i} ({export.format})"
        if not elsewhere and (reason := why_not_here(export)) is not None:
            raise ValueError(f"{where}: {reason}")
        for name, specialist in config.specialists.items():
            if not export.of(name):
                continue
            tokenizer = teachers[config.teacher_of(config.own_domain(name))]
            for wanted in (
                export,
                *(export.of_model(_planned(rounding)) for rounding in specialist.roundings.values()),
            ):
                if (reason := why_not(wanted, made_config(specialist.model), tokenizer)) is not None:
                    raise ValueError(f"{where}: {name} cannot be written: {reason}, or take it out of export")


def _planned(rounding: RoundingConfig) -> QuantisedWeights:
    """What the folder of a model that is trained so will say of its weights."""
    return QuantisedWeights(rounding.format, rounding.embeddings, rounding.keep, {})


def made_config(model: ModelConfig) -> dict[str, Any]:
    """What the config.json of a student will say, as far as its settings do."""
    if model.source is None:
        return dict(model.config or {})
    base = read_model_config(model_folder(model.source, model.revision, weights=False))
    config, kinds = decoder_of(model, base), list(base.get("layer_types") or ())
    if not model.drop_layers or not kinds:
        return config
    if isinstance(model.drop_layers, list):
        return {**config, "layer_types": [kind for i, kind in enumerate(kinds) if i not in model.drop_layers]}
    one = len(set(kinds)) == 1  # which ones are taken is measured: of several kinds, any may be left
    return {**config, "layer_types": kinds[model.drop_layers :] if one else ["of any kind"]}
