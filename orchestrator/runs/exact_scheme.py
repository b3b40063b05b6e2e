"""How the held-out store keeps the teacher's exact distributions, where the settings leave it to the run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from humanize import naturalsize

from orchestrator.config.schema import RunConfig
from orchestrator.runs.folder import RunFolder
from workers.architectures import architecture
from workers.logit_map import head_is_known
from workers.model_files import read_model_config
from workers.model_sizes import DTYPE_BYTES


@dataclass(frozen=True)
class ExactScheme:
    """The scheme of a run's held-out store, what it comes to, and why it is that."""

    scheme: Literal["full", "hidden"]
    size: int
    """Bytes: of so many target tokens, and of the teachers' heads with `hidden`."""
    why: str


def choose_exact_scheme(
    config: RunConfig, folders: Mapping[str, Path], tokens: Mapping[str, int], vocabulary: int
) -> ExactScheme:
    """The scheme that `evaluate.targets` says; of `auto` that of the run's store where there is one, else the smaller
    of both that can be had.

    `folders` and `tokens` are the teachers' folders and their held-out target tokens; `vocabulary` is the number of
    ids. Only configurations of models are read.
    """
    full = sum(tokens.values()) * vocabulary * DTYPE_BYTES[config.evaluate.precision]
    models = {name: read_model_config(folders[name]) for name in config.teachers}
    hidden = hidden_bytes(config, models, tokens, vocabulary)
    sizes = f"full {naturalsize(full)}, hidden {naturalsize(hidden)}"

    def chosen(scheme: Literal["full", "hidden"], why: str) -> ExactScheme:
        return ExactScheme(scheme, full if scheme == "full" else hidden, why)

    if config.evaluate.targets != "auto":
        return chosen(config.evaluate.targets, f"as evaluate.targets says ({sizes})")
    if (stored := RunFolder.of(config).exact_scheme()) is not None:
        return chosen(stored, "as the run's held-out store has them")
    for name in config.teachers:
        if (reason := _why_not_hidden(config, name, models[name], folders[name])) is not None:
            return chosen("full", f"{config.teacher_key(name)}: {reason} ({sizes})")
    return chosen("hidden" if hidden < full else "full", f"the smaller of both ({sizes})")


def hidden_size(model_config: dict[str, Any]) -> int:
    """Numbers of a last hidden state by a model's config.json, or its part for text; 0 where it does not say."""
    text = model_config.get("text_config") or model_config
    known = architecture(str(text.get("model_type", "")))
    return int((known.value(text, "hidden_size") if known else text.get("hidden_size")) or 0)


def hidden_bytes(
    config: RunConfig, models: Mapping[str, dict[str, Any]], tokens: Mapping[str, int], vocabulary: int
) -> int:
    """Of the hidden states of so many tokens by teacher, and of the heads, which a teacher of no prompt has too.
    `models` are the teachers' config.json."""
    width = DTYPE_BYTES[config.hidden_precision()]
    return sum(
        hidden_size(model) * tokens.get(name, 0) * width + head_bytes(config, name, model, vocabulary)
        for name, model in models.items()
    )


def head_bytes(config: RunConfig, teacher: str, model: dict[str, Any], vocabulary: int) -> int:
    """Of a teacher's LM head, of the tokenizer's ids."""
    return hidden_size(model) * vocabulary * DTYPE_BYTES[config.teachers[teacher].precision]


def _why_not_hidden(config: RunConfig, name: str, model: dict[str, Any], folder: Path) -> str | None:
    """Why hidden states of a teacher cannot be had, or not for certain; None if they can."""
    teacher = config.teachers[name]
    if teacher.engine != "transformers":
        return f"engine {teacher.engine} shows no hidden states"
    kind = model.get("model_type")
    if not head_is_known(model) or (teacher.trust_remote_code and "auto_map" in model):
        return f"the LM head of {kind} is not known to be a plain matrix; evaluate.targets: hidden tries it"
    if not hidden_size(model):
        return f"the hidden size of {kind} is not known; evaluate.targets: hidden tries it"
    if next(folder.glob("*.bin"), None) is not None and next(folder.glob("*.safetensors"), None) is None:
        return "its weights are not safetensors, of which the head is read"
    return None
