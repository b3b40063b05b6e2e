"""Checks of a run that goes on from an older generation, before a model is loaded. Imports no torch."""

from __future__ import annotations

import json
from typing import Any

from orchestrator.config.schema import RunConfig
from orchestrator.preflight.students import made_config
from orchestrator.prompts.tokenizing import TokenizerFacts
from orchestrator.runs.folder import RunFolder
from orchestrator.runs.generations import generation_name, older_runs
from workers.layout import StoreLayout, StudentLayout
from workers.splits import TRAIN

_SHAPE = (
    *("model_type", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
    *("num_key_value_heads", "head_dim", "vocab_size"),
)
"""Settings of a model that say which weights it has."""


def check_older(config: RunConfig) -> None:
    """The generation that a run goes on from is there, with the specialists that are to be teachers. Raises
    ValueError."""
    run = RunFolder.of(config)
    for older in older_runs(run, config.continues)[-1:]:
        for name, teacher in config.teachers.items():
            key = teacher.model.removeprefix(f"{older.uri}/")
            if key != teacher.model and not older.storage.exists(f"{key}/config.json"):
                raise ValueError(
                    f"{config.teacher_key(name)}.model: {key.rpartition('/')[2]!r} of {older.uri} is not exported, so "
                    f"that it has no tokenizer to be a teacher with; `stillhouse export {older.uri} --format "
                    "safetensors` writes it"
                )


def check_continuing(config: RunConfig, tokenizer: TokenizerFacts) -> list[str]:
    """Specialists can go on from what they were, and texts of older generations be replayed; what is right and perhaps
    not meant, in sentences. `tokenizer` is the teachers'. Raises ValueError."""
    run, notes = RunFolder.of(config), list[str]()
    older = older_runs(run, config.continues)
    if not older or config.continues is None:
        return []
    for one in older:
        notes += _check_store(config, generation_name(one, run), one, tokenizer)
    before, name = older[-1], generation_name(older[-1], run)
    known = before.config().specialists
    for specialist in config.specialists:
        if before.student_done(specialist) is not None:
            _check_shape(config, specialist, name, before)
        elif specialist in known:
            raise ValueError(
                f"specialists.{specialist}: generation {name} has not finished training it ({before.uri}); finish that "
                "generation first, or give it another name here, so that it starts from its model"
            )
        else:
            notes.append(f"specialists.{specialist} is none of generation {name}: it starts from its model")
    left = sorted(known.keys() - config.specialists.keys())
    return [*notes, *(f"specialists.{name} of the older generation is not trained on" for name in left)]


def _check_store(config: RunConfig, name: str, older: RunFolder, tokenizer: TokenizerFacts) -> list[str]:
    header: dict[str, Any] | None = older.read_json(StoreLayout(TRAIN).header)
    if header is None:
        raise ValueError(f"continues.generation: generation {name} has no targets yet ({older.uri}); make it first")
    if header["tokenizer"] != tokenizer.fingerprint:
        first = config.teacher_key(config.first_teacher())
        raise ValueError(
            f"{first}.model: its tokenizer is not that of generation {name} ({older.uri}), so that its ids would mean "
            "other words to specialists that go on from there; take a teacher of the same family"
        )
    assert config.continues is not None
    if not config.continues.replay:
        return []
    for setting, own in (("scheme", config.targets.scheme), ("precision", config.hidden_precision())):
        matters = setting == "scheme" or header["scheme"] == "hidden"
        if matters and header.get(setting, own) != own:
            raise ValueError(
                f"targets.{setting}: {own}, but the targets of generation {name} are {header[setting]}, and a batch "
                f"holds targets of one kind; take {header[setting]} here too, or set continues.replay to 0%"
            )
    if header["chat_template"] != tokenizer.chat_template:
        return [f"chats of generation {name} that are replayed are written in its own chat template, which is another"]
    return []


def _check_shape(config: RunConfig, specialist: str, name: str, older: RunFolder) -> None:
    """What a specialist's settings say of its model is what it was."""
    was = json.loads(older.storage.read(f"{StudentLayout(specialist).final}/config.json"))
    said = made_config(config.specialists[specialist].model)
    other = [
        f"{key} {said[key]}, was {was[key]}" for key in _SHAPE if key in said and said[key] != was.get(key, said[key])
    ]
    if other:
        raise ValueError(
            f"specialists.{specialist}.model: has another shape than in generation {name}, whose weights it goes on "
            f"from: {'; '.join(other)}. Write its model as it was, or give the specialist another name, so that it "
            "starts from its model"
        )
