"""What must hold before anything is loaded: files, tokenizers, experts, domains, storage. Imports no torch."""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass, field
from pathlib import Path

from cluster.storage import check_writable, open_storage
from orchestrator.answer_checks import check_answering
from orchestrator.answering import Answerings
from orchestrator.config import RunConfig
from orchestrator.config_file import ConfigFile
from orchestrator.prompt_sources import RawPrompt, SetAside, assign_splits, read_probes, screen
from orchestrator.python_function import check_function
from orchestrator.run_folder import RunFolder
from orchestrator.student_checks import check_students
from workers.fingerprint import chat_template_fingerprint, hash_json, tokenizer_fingerprint
from workers.model_files import (
    expert_count,
    model_folder,
    read_model_config,
    token_ids,
)
from workers.splits import TRAIN
from workers.teacher.families import check_teacher_family, why_not_generate
from workers.teacher.vllm_settings import check_vllm


@dataclass
class Checked:
    """What the checks found out on their way."""

    teacher_folders: dict[str, Path] = field(default_factory=dict)
    tokenizer: str = ""
    chat_template: str = ""
    always_keep: list[int] = field(default_factory=list)
    """Ids of `targets.always_keep`."""
    prompts: list[RawPrompt] = field(default_factory=list)
    set_aside: list[SetAside] = field(default_factory=list)


def check(file: ConfigFile) -> Checked:
    """All checks of a configuration; raises ValueError at the first that fails, naming setting, value and remedy."""
    config, found = file.located(), Checked()
    _check_teachers(config, found)
    check_students(config, found.tokenizer)
    _check_prompts(config, found)
    _check_what_judges(config)
    check_storage(file)
    return found


def check_storage(file: ConfigFile) -> None:
    """The storage can be written, and the run's name is free or has the same configuration."""
    config = file.located()
    check_writable(open_storage(config.storage))
    RunFolder.of(config).refuse_other(file.config)


def _check_teachers(config: RunConfig, found: Checked) -> None:
    for name, teacher in config.teachers.items():
        key = config.teacher_key(name)
        try:
            folder = model_folder(teacher.model, teacher.revision, weights=False)
            tokenizer = tokenizer_fingerprint(folder)
        except ValueError as error:
            raise ValueError(f"{key}.{error}") from None
        model_config = read_model_config(folder)
        check_vllm(key, teacher, expert_count(model_config))
        if teacher.engine == "transformers":
            check_teacher_family(key, teacher.model, model_config, ep_size=teacher.ep_size, gpus=teacher.gpus_per_rank)
        else:
            _check_vllm_is_there(key, teacher.vllm.python, config.cluster.address)
        if found.tokenizer and tokenizer != found.tokenizer:
            raise ValueError(
                f"{key}.model: {teacher.model!r} has another tokenizer than the first teacher; "
                "targets of one run share one tokenizer"
            )
        found.teacher_folders[name] = folder
        found.tokenizer = tokenizer
    templates = {name: chat_template_fingerprint(folder) for name, folder in found.teacher_folders.items()}
    one = len(set(templates.values())) == 1
    found.chat_template = templates[config.first_teacher()] if one else hash_json(templates)
    folder = found.teacher_folders[config.first_teacher()]
    found.always_keep = [_token_id(folder, token) for token in config.targets.always_keep]


def _check_vllm_is_there(key: str, python: str | None, address: str | None) -> None:
    """Where the ranks run on this machine. What a cluster's nodes have shows when a rank starts."""
    if address is not None or "RAY_ADDRESS" in os.environ:
        return
    if python is not None and not (os.path.isabs(python) and os.access(python, os.X_OK)):
        raise ValueError(
            f"{key}.vllm.python: {python!r} is not the absolute path of a program on this machine; name the Python of "
            "an environment that has vLLM"
        )
    if python is None and importlib.util.find_spec("vllm") is None:
        raise ValueError(
            f"{key}.engine: vllm, but the package vllm is not installed; install it in an environment of its own and "
            f"name its Python in {key}.vllm.python, or set engine transformers"
        )


def _token_id(folder: Path, token: str) -> int:
    ids = token_ids(folder)
    if token not in ids:
        raise ValueError(
            f"targets.always_keep: {token!r} is not a token of the teacher's tokenizer; write it as its "
            "tokenizer.json does, a space for example as Ġ or ▁"
        )
    return ids[token]


def _check_prompts(config: RunConfig, found: Checked) -> None:
    for name, source in config.prompts.items():
        try:
            good, bad = screen(name, source)
        except ValueError as error:
            raise ValueError(f"prompts.{name}: {error}") from None
        found.prompts += good
        found.set_aside += bad
        if not good:
            reason = f"; the first: {bad[0].reason}" if bad else ""
            raise ValueError(f"prompts.{name}: no usable row in {source.path!r} ({len(bad)} set aside{reason})")
    aside = check_answering(config, found.prompts, found.teacher_folders)
    found.set_aside += aside.values()
    found.prompts = [p for i, p in enumerate(found.prompts) if i not in aside]
    splits = assign_splits(found.prompts, config.evaluate.heldout)
    domains = {d for p, split in zip(found.prompts, splits, strict=True) if split == TRAIN for d in p.domains}
    for name in config.specialists:
        for domain, share in config.mix_of(name).items():
            if share > 0 and domain not in domains:
                raise ValueError(
                    f"specialists.{name}.mix: no training prompt belongs to the domain {domain!r}; there are "
                    f"{sorted(domains)}. "
                    "Add a prompt source of that name, or mend the mix"
                )
    _check_answers(config, found)
    named = {
        "domains": set(config.domains) - {d for p in found.prompts for d in p.domains},
        "targets.withhold": set(config.targets.withhold),
        "targets.temperature": config.targets.temperatures.keys() - {"*"},
    }
    for where, names in named.items():
        for domain in sorted(names - domains):
            raise ValueError(f"{where}: no prompt belongs to the domain {domain!r}; there are {sorted(domains)}")


def _check_answers(config: RunConfig, found: Checked) -> None:
    """Teachers that cannot answer are given nothing to answer."""
    answerings = Answerings(config)
    for name, folder in found.teacher_folders.items():
        reason = why_not_generate(read_model_config(folder))
        if reason is None or config.teachers[name].engine == "vllm":
            continue
        for prompt in found.prompts:
            mine = answerings.of(prompt.source, prompt.domains).teacher == name
            if mine and (prompt.answer is None or config.evaluate.text != "given"):
                raise ValueError(
                    f"{config.teacher_key(name)}.model: {reason}. Give every prompt its answer and set evaluate.text "
                    "to given, so that text is scored, or take another model"
                )


def _check_what_judges(config: RunConfig) -> None:
    if config.answers.filter is not None:
        check_function("answers.filter", config.answers.filter)
    if config.evaluate.probes is not None:
        try:
            read_probes(config.evaluate.probes)
        except OSError as error:
            raise ValueError(f"evaluate.probes: cannot read {config.evaluate.probes!r}: {error.strerror}") from None
    if config.evaluate.truth is not None:
        check_function("evaluate.truth", config.evaluate.truth)
