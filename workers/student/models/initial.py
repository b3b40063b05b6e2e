"""Students' initial weights, made once and kept: a control starts from its specialist's, and they are measured too.

A mixture of experts is never whole in memory: all students that start from it are made in the same passes over its
layers. A dense base is loaded once for all that start from it. Weights keep the type that they have in the files.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from workers.fetching.folder import model_folder
from workers.streaming.layered_model import LayeredModel
from workers.student.config import ModelConfig
from workers.student.models.continued import continued
from workers.student.models.dropped_layers import drop_layers, rectangle
from workers.student.models.merged_experts import Merge, merge_experts
from workers.student.models.resources import ANSWER_TOKENS


@dataclass(frozen=True)
class Asked:
    """Initial weights that are asked for. `sample_ids` are texts for measuring which layers and which experts matter;
    `prompt_token_ids` are prompts that a mixture answers first, for the same."""

    name: str
    model: ModelConfig
    seed: int = 0
    sample_ids: list[list[int]] = field(default_factory=list)
    prompt_token_ids: list[list[int]] = field(default_factory=list)

    @property
    def source(self) -> tuple[str | None, ...]:
        """Equal for students that start from the same model."""
        new = self.name if self.model.config is not None else None
        return self.model.base, self.model.merge_experts, self.model.revision, new

    @property
    def same_as(self) -> tuple[Any, ...]:
        """Equal for students whose initial weights are the same."""
        settings = self.model.model_copy(update={"lora": None}).model_dump_json()
        if self.model.config is not None:
            return settings, self.seed
        if self.model.merge_experts is None and not self.model.drop_layers:
            return (settings,)
        texts = (tuple(map(tuple, ids)) for ids in (self.sample_ids, self.prompt_token_ids))
        return settings, *texts, self.seed if self.prompt_token_ids else 0


@dataclass(frozen=True)
class Made:
    """The initial weights of a student: a safetensors folder, and facts (parameters, layers dropped, merges)."""

    name: str
    folder: Path
    facts: dict[str, Any]


def make_initials(asked: list[Asked], folder: Path, *, vocabulary: int, memory: int = 0) -> Iterator[Made]:
    """The initial weights of students, in folders below `folder`, each of which is deleted when the next is asked for.

    `vocabulary` is the tokenizer's number of ids, `memory` how many bytes of a mixture's layers are held at once.
    Raises ValueError for files that are not what they should be.
    """
    works: dict[Any, list[Asked]] = {}
    for one in asked:
        works.setdefault(one.same_as, []).append(one)
    groups: dict[Any, list[Asked]] = {}
    for first, *_ in works.values():
        groups.setdefault(first.source, []).append(first)
    for group in groups.values():
        for one, model, facts in _models(group, folder, vocabulary, memory):
            if model.config.vocab_size < vocabulary:
                raise ValueError(
                    f"model: its vocabulary of {model.config.vocab_size} cannot hold the tokenizer's {vocabulary} ids"
                )
            out = folder / one.name
            model.save_pretrained(out)
            parameters = sum(p.numel() for p in model.parameters())
            facts = {**facts, "parameters": parameters, "layers": model.config.num_hidden_layers}
            del model
            yield from (Made(other.name, out, facts) for other in works[one.same_as])
            shutil.rmtree(out)


def new_config(settings: dict[str, Any], vocabulary: int) -> Any:
    """The transformers configuration of a model of given sizes; its vocabulary is the tokenizer's unless they say."""
    from transformers import AutoConfig

    sizes = {"vocab_size": vocabulary, **settings}
    return AutoConfig.for_model(sizes.pop("model_type"), **sizes)


Model = tuple[Asked, Any, dict[str, Any]]
"""Whose initial weights a model is, and facts about it."""


def _models(group: list[Asked], folder: Path, vocabulary: int, memory: int) -> Iterator[Model]:
    """The models of students that start from the same one."""
    if group[0].model.config is not None:
        return _random(group, vocabulary)
    if group[0].model.merge_experts is not None:
        return _merged(group, folder / "merging", memory)
    return _based(group)


def _random(group: list[Asked], vocabulary: int) -> Iterator[Model]:
    """New models of the given sizes."""
    from transformers import AutoModelForCausalLM

    for asked in group:
        assert asked.model.config is not None
        torch.manual_seed(asked.seed)
        yield asked, AutoModelForCausalLM.from_config(new_config(asked.model.config, vocabulary)), {}


def _based(group: list[Asked]) -> Iterator[Model]:
    """A dense model that is there, without the layers that each student is to lose."""
    from transformers import AutoModelForCausalLM

    source = str(group[0].model.base)
    base, found = AutoModelForCausalLM.from_pretrained(
        model_folder(source, group[0].model.revision), dtype="auto", output_loading_info=True
    )
    _check_whole(source, found)
    layers, kinds = list(base.get_decoder().layers), getattr(base.config, "layer_types", None)
    for asked in group:
        base.get_decoder().layers, base.config.num_hidden_layers = nn.ModuleList(layers), len(layers)
        if kinds is not None:
            base.config.layer_types = kinds
        yield asked, base, _dropped(base, asked, asked.sample_ids)


def _merged(group: list[Asked], folder: Path, memory: int) -> Iterator[Model]:
    """A mixture of experts made dense for each student, without the layers that it is to lose."""
    mixture = LayeredModel.from_files(str(group[0].model.merge_experts), group[0].model.revision, memory=memory)
    answers = continued(mixture, [(asked.prompt_token_ids, asked.seed) for asked in group], ANSWER_TOKENS)
    texts = [[*asked.sample_ids, *more] for asked, more in zip(group, answers, strict=True)]
    merges = [
        Merge(a.model.merge, a.model.merged_width, own, rectangle(own) if a.model.drop_layers else None)
        for a, own in zip(group, texts, strict=True)
    ]
    found = merge_experts(mixture, merges, folder)
    mixture.release()
    for asked, own, merged in zip(group, texts, found, strict=True):
        model, facts = merged.files.load(), merged.facts
        if merged.aside is not None:
            whole_BSV = mixture.logits(merged.aside).float().log_softmax(-1)
            facts |= _dropped(model, asked, own, whole_BSV)
        yield asked, model, facts
        merged.files.delete()


def _dropped(model: Any, asked: Asked, texts: list[list[int]], whole_BSV: torch.Tensor | None = None) -> dict[str, Any]:
    """Take a student's layers out of a model; facts, none where it keeps all."""
    if not asked.model.drop_layers:
        return {}
    taken, kl = drop_layers(model, asked.model.drop_layers, texts, whole_BSV)
    return {"dropped_layers": taken, "kl_to_base": kl}


def _check_whole(source: str, found: dict[str, Any]) -> None:
    """Every weight was in the files: transformers makes up those that are not, and only logs it."""
    for what, names in (("lack", found["missing_keys"]), ("have another shape of", found["mismatched_keys"])):
        if names:
            shown = ", ".join(sorted(str(name) for name in names)[:3])
            raise ValueError(
                f"model: the files of {source!r} {what} {len(names)} of the model's weights ({shown} ...); fetch them "
                "again, or make config.json say what they hold"
            )
