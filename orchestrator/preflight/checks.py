"""What must hold before anything is loaded: files, tokenizers, experts, domains, storage. Imports no torch."""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass, field
from pathlib import Path

from cluster.model_cache import use_model_cache
from cluster.session import address_of
from cluster.storage import check_writable, open_storage
from orchestrator.config.loading import ConfigFile
from orchestrator.config.python_function import check_function
from orchestrator.config.schema import RunConfig
from orchestrator.config.students import SINGLE_EXPERT, TEACHER_4BIT
from orchestrator.config.trackers import check_trackers
from orchestrator.preflight.model_folders import check_model_folder, check_sources
from orchestrator.preflight.new_models import check_new_models
from orchestrator.preflight.older.continuing import check_continuing, check_older
from orchestrator.preflight.passed_on import check_passed_on
from orchestrator.preflight.place import Needs, check_place
from orchestrator.preflight.planning.tasks import task_notes
from orchestrator.preflight.prompts import check_answering
from orchestrator.preflight.students import check_exports, check_students
from orchestrator.preflight.trial import try_prompts
from orchestrator.prompts.lengths import TextLengths, check_students_hold, positions_by_settings
from orchestrator.prompts.policy import PolicyResolver
from orchestrator.prompts.sources import (
    MissingPrompts,
    RawPrompt,
    Reading,
    RejectedRow,
    Screened,
    read_probes,
    require_given,
    require_prompts,
    screen_all,
)
from orchestrator.prompts.splits import beyond_caps, caps_note, splits_and_trained
from orchestrator.prompts.tasks import ReadTask, check_task_chat, harness_note, read_tasks
from orchestrator.prompts.tokenizing import TokenizerFacts
from orchestrator.runs.folder import RunFolder
from workers.evaluation.harness.asked import HarnessTask
from workers.evaluation.harness.finding import find_tasks, harness_is_there
from workers.evaluation.models.cuttable import why_not_cut, why_not_rounded
from workers.fetching.folder import model_folder
from workers.fingerprint import chat_template_fingerprint, hash_json, tokenizer_fingerprint
from workers.layout import PROMPTS_SUMMARY
from workers.model_files import expert_count, read_model_config, token_ids
from workers.splits import TRAIN
from workers.teacher.engines.families import check_teacher_family, why_not_generate
from workers.teacher.engines.vllm_settings import check_vllm


@dataclass
class Checked:
    """What the checks found out on their way."""

    teacher_folders: dict[str, Path] = field(default_factory=dict)
    tokenizer: TokenizerFacts = field(default_factory=TokenizerFacts)
    prompts: list[RawPrompt] = field(default_factory=list)
    """Those that can be asked; none where the run's frozen prompts did."""
    rejected: list[RejectedRow] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """What is right and perhaps not meant."""
    left_alone: tuple[str, ...] = ()
    """Specialists of a run that exists which the configuration leaves as they are, and why; among the notes too."""
    screened: Screened = field(default_factory=dict)
    """The rows of all sources as they were read; none where the run's frozen prompts did."""
    rows: dict[str, dict[str, int]] = field(default_factory=dict)
    """By source: the `rows` that it has, how many of them were `read`, and whether `rows` is `exact`."""
    longest: dict[str, int] = field(default_factory=dict)
    """Tokens of the longest text that may come of the rows that were tried, by domain."""
    lengths: TextLengths = field(default_factory=TextLengths)
    tasks: list[ReadTask] = field(default_factory=list)
    """Questions with known answers."""
    harness: list[HarnessTask] = field(default_factory=list)
    """Tasks of lm-evaluation-harness."""

    @property
    def sampled(self) -> dict[str, float]:
        """Sources of which a sample was read: how many rows each that was read stands for."""
        return {name: n["rows"] / n["read"] for name, n in self.rows.items() if n["read"] < n["rows"]}

    @property
    def usable(self) -> int:
        """How many prompts can be used; an estimate where a sample was read."""
        return round(sum(self.sampled.get(p.source, 1.0) for p in self.prompts))

    def reject(self, rejected: dict[int, RejectedRow]) -> None:
        """Take rows, by their index, out of the prompts."""
        self.rejected += rejected.values()
        self.prompts = [p for i, p in enumerate(self.prompts) if i not in rejected]

    def take_screened(self) -> Screened | None:
        """The rows as they were read, for the last time: nobody holds prompts for the length of a run. None where a
        sample was read: a run is not made of it."""
        screened, whole = self.screened, not self.sampled
        self.screened, self.prompts, self.rejected = {}, [], []
        return screened if screened and whole else None

    def take_tasks(self) -> list[ReadTask]:
        """The tasks as they were read, for the last time."""
        tasks, self.tasks = self.tasks, []
        return tasks


def check(
    file: ConfigFile,
    *,
    frozen_will_do: bool = False,
    needs: Needs | None = None,
    reading: Reading = "all",
    elsewhere: bool = False,
) -> Checked:
    """All checks of a configuration; raises ValueError at the first that fails, naming setting, value and remedy.

    Where `frozen_will_do`, prompts that a run has frozen are what counts, and their sources are not read again.
    `needs`: what is started right after this, for which there must be a place; None where nothing is.
    `reading`: how much of the sources is read; where a sample of one would have been refused, all rows decide, if they
    are not too many. What is missing among the rows of a large source's sample is noted, and decided when prompts are
    frozen, before a teacher starts.
    `elsewhere`: the run is not for this machine, which need not have the teacher's engine, nor lm-evaluation-harness,
    nor trackers.
    """
    config, found = file.located(), Checked()
    use_model_cache(config.cluster.model_cache)
    check_passed_on(config)
    check_older(config)
    if not elsewhere:
        check_trackers(config.trackers, config.storage)
    _check_teachers(config, found, elsewhere)
    check_new_models(config, found.teacher_folders[config.first_teacher()])
    check_sources(config)
    check_students(config, found.tokenizer.fingerprint)
    of_older = check_continuing(config, found.tokenizer)
    check_exports(config, found.teacher_folders, elsewhere=elsewhere or address_of(config.cluster) != "local")
    check_storage(file)
    run = RunFolder.of(config)
    if frozen_will_do and run.storage.exists(PROMPTS_SUMMARY):
        from workers.manifest import read_plan  # Arrow takes a quarter of a second, which no other check needs

        plan = read_plan(run.storage, TRAIN)
        require_prompts(config, set(plan.domains), [])
        require_given(config, set(plan.given().domains))
    else:
        _check_prompts(config, found, reading)
    _check_what_judges(config, found, elsewhere)
    found.left_alone = run.left_alone(file)
    found.notes += [*of_older, *found.left_alone]
    if needs is not None:
        check_place(config, needs, found.prompts)
    return found


def check_storage(file: ConfigFile) -> None:
    """The storage can be written, and the run's name is free or has the same configuration."""
    config = file.located()
    check_writable(open_storage(config.storage))
    RunFolder.of(config).refuse_other(file.config)


def _check_teachers(config: RunConfig, found: Checked, elsewhere: bool) -> None:
    fingerprint = ""
    for name, teacher in config.teachers.items():
        key = config.teacher_key(name)
        try:
            folder = model_folder(teacher.model, teacher.revision, weights=False)
            tokenizer = tokenizer_fingerprint(folder)
        except ValueError as error:
            raise ValueError(f"{key}.{error}") from None
        check_model_folder(f"{key}.model", teacher.model, folder)
        model_config = read_model_config(folder)
        check_vllm(key, teacher, expert_count(model_config))
        if teacher.engine == "transformers":
            check_teacher_family(key, teacher.model, model_config, ep_size=teacher.ep_size, gpus=teacher.gpus_per_rank)
        else:
            _check_not_hidden(key, config)
            if not elsewhere:
                _check_vllm_is_there(key, teacher.vllm.python, config.cluster.address)
        if fingerprint and tokenizer != fingerprint:
            raise ValueError(
                f"{key}.model: {teacher.model!r} has another tokenizer than the first teacher; "
                "targets of one run share one tokenizer"
            )
        found.teacher_folders[name] = folder
        fingerprint = tokenizer
    templates = {name: chat_template_fingerprint(folder) for name, folder in found.teacher_folders.items()}
    one = len(set(templates.values())) == 1
    folder = found.teacher_folders[config.first_teacher()]
    found.tokenizer = TokenizerFacts(
        fingerprint,
        templates[config.first_teacher()] if one else hash_json(templates),
        tuple(_token_id(folder, token) for token in config.targets.always_keep),
    )


def _check_not_hidden(key: str, config: RunConfig) -> None:
    """Nothing is asked of vLLM that it does not show."""
    asked = {"evaluate.targets": config.evaluate.targets, "targets.scheme": config.targets.scheme}
    others = {"evaluate.targets": "full", "targets.scheme": "systematic, or topk (with its tail)"}
    for setting in (name for name, scheme in asked.items() if scheme == "hidden"):
        raise ValueError(
            f"{setting}: hidden, but {key}.engine is vllm, which shows no hidden states; take {others[setting]}, or "
            "engine transformers"
        )


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


def _check_prompts(config: RunConfig, found: Checked, reading: Reading) -> None:
    screened = screen_all(config, reading)
    try:
        return _check_rows(config, found, screened)
    except ValueError as error:  # perhaps true of a sample alone
        if not found.sampled:
            raise
        if any(source.placed for source in screened.values()):
            if not isinstance(error, MissingPrompts):
                raise
            found.notes.append(f"{error}: so says a sample of the rows; all of them are read when prompts are frozen")
            return None
    found.prompts, found.rejected, found.notes, found.longest = [], [], [], {}
    return _check_rows(config, found, screen_all(config))


def _check_rows(config: RunConfig, found: Checked, screened: Screened) -> None:
    """What must hold of the rows of all sources, or of a sample of them."""
    found.rows = {n: {"rows": s.rows, "read": s.read, "exact": s.exact} for n, s in screened.items()}
    found.screened = screened
    for source in screened.values():
        found.prompts += source.prompts
        found.rejected += source.rejected
    found.reject(check_answering(config, found.prompts, found.teacher_folders))
    found.reject(beyond_caps(config, found.prompts))
    trial = try_prompts(config, found.prompts, found.teacher_folders)
    found.reject(trial.rejected)
    found.notes += trial.notes()
    found.longest, found.lengths = trial.longest, trial.lengths
    check_students_hold(config, trial.longest, positions_by_settings(config))
    splits, past_caps = splits_and_trained(config, found.prompts)
    if (note := caps_note(config, past_caps)) is not None:
        found.notes.append(note)
    trained = [p for p, split in zip(found.prompts, splits, strict=True) if split == TRAIN]
    domains = {d for p in trained for d in p.domains}
    require_prompts(config, domains, found.rejected)
    require_given(config, {d for p in trained if p.answer is not None for d in p.domains})
    _check_answers(config, found)
    named = {
        "domains": set(config.domains) - {d for p in found.prompts for d in p.domains},
        "targets.withhold": set(config.targets.withhold),
        "targets.temperature": config.targets.temperatures.keys() - {"*"},
    }
    for where, names in named.items():
        for domain in sorted(names - domains):
            raise MissingPrompts(f"{where}: no prompt belongs to the domain {domain!r}; there are {sorted(domains)}")


def _check_answers(config: RunConfig, found: Checked) -> None:
    """Teachers that cannot answer are given nothing to answer."""
    policies = PolicyResolver(config)
    for name, folder in found.teacher_folders.items():
        reason = why_not_generate(read_model_config(folder))
        if reason is None or config.teachers[name].engine == "vllm":
            continue
        for prompt in found.prompts:
            mine = policies.of(prompt.source, prompt.domains).teacher == name
            if mine and (prompt.answer is None or config.evaluate.text != "given"):
                raise ValueError(
                    f"{config.teacher_key(name)}.model: {reason}. Give every prompt its answer and set evaluate.text "
                    "to given, so that text is scored, or take another model"
                )


def _check_what_judges(config: RunConfig, found: Checked, elsewhere: bool) -> None:
    if config.answers.filter is not None:
        check_function("answers.filter", config.answers.filter)
    if config.evaluate.probes is not None:
        try:
            read_probes(config.evaluate.probes)
        except OSError as error:
            raise ValueError(f"evaluate.probes: cannot read {config.evaluate.probes!r}: {error.strerror}") from None
    if config.evaluate.truth is not None:
        check_function("evaluate.truth", config.evaluate.truth)
    found.tasks = read_tasks(config, found.teacher_folders)
    found.notes += task_notes(config, found.tasks)
    if config.evaluate.harness is not None and (harness_is_there() or not elsewhere):
        check_task_chat(config, found.teacher_folders)
        found.harness = find_tasks(config.evaluate.harness, config.evaluate.run_code)
        found.notes.append(harness_note(found.harness))
    _check_made_of_teacher(config, found.teacher_folders[config.first_teacher()])


def _check_made_of_teacher(config: RunConfig, folder: Path) -> None:
    """Baselines that are made of the first teacher can be."""
    name, model_config = config.first_teacher(), read_model_config(folder)
    for baseline, made, why_not in (
        (SINGLE_EXPERT, "is cut out of", why_not_cut),
        (TEACHER_4BIT, "rounds the weights of", why_not_rounded),
    ):
        if baseline in config.evaluate.baselines and (reason := why_not(model_config)) is not None:
            raise ValueError(
                f"evaluate.baselines: {baseline} {made} {config.teacher_key(name)}.model "
                f"{config.teachers[name].model!r}, and {reason}; take {baseline} out, or name another teacher"
            )
