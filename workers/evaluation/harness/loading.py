"""Tasks of lm-evaluation-harness by their names: loaded with their items, or refused with the reason.

Imports lm_eval, which loads `datasets`: for processes that find tasks or ask them, not for the driver.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, chdir, contextmanager
from itertools import islice
from pathlib import Path
from typing import Any
from unittest.mock import patch

import yaml
from lm_eval.tasks import TaskManager

from workers.evaluation.config import NO_CODE
from workers.evaluation.harness.asked import HarnessTask
from workers.evaluation.harness.config import HarnessConfig
from workers.fingerprint import hash_json

_KEY = "evaluate.harness"

_ABOUT_PLACES = ("dataset_path", "dataset_kwargs", "metadata")
"""Settings of a task that say where its items lie, which are looked at themselves."""

_RUNS_CODE = "code_eval"
"""The metric of Hugging Face that runs programs."""


_SAYS_OFFLINE = {
    "huggingface_hub.constants": ("HF_HUB_OFFLINE",),
    "datasets.config": ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"),
    "evaluate.config": ("HF_EVALUATE_OFFLINE",),
}
"""Constants of libraries that reach the Hub, which they make of the environment when they are imported."""


@contextmanager
def offline(asked: bool) -> Iterator[None]:
    """Within the block, if that is asked for, the Hub is left alone."""
    with ExitStack() as stack:
        for module, names in _SAYS_OFFLINE.items() if asked else ():
            stack.enter_context(patch.dict(os.environ, dict.fromkeys(names, "1")))
            for name in names if module in sys.modules else ():
                stack.enter_context(patch.object(sys.modules[module], name, True))
        yield


@contextmanager
def quiet() -> Iterator[None]:
    """Of what lm-evaluation-harness logs, errors alone."""
    logger = logging.getLogger("lm_eval")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


class HarnessTasks:
    """Finds and loads tasks as settings ask for them."""

    def __init__(self, settings: HarnessConfig, run_code: bool) -> None:
        """Raises ValueError for a folder that is none and for names that no task has."""
        self._settings, self._run_code = settings, run_code
        folder = settings.include_path
        if folder is not None and not os.path.isdir(folder):
            raise ValueError(f"{_KEY}.include_path: no such folder {folder!r}; name the one with the tasks' YAML files")
        self._manager = TaskManager(include_path=folder, include_defaults=False)
        if not set(settings.tasks) <= set(self._manager.all_tasks):  # theirs are 10,000 files
            self._manager = TaskManager(include_path=folder)
        for name in settings.tasks:
            if name not in self._manager.all_tasks:
                raise ValueError(f"{_KEY}.tasks: {self._unknown(name)}")

    def load(self, name: str) -> Any:
        """The tasks behind a name, as `lm_eval.evaluate` takes them. Raises ValueError, naming the task, for one that
        cannot be loaded and for programs that may not be run."""
        settings = self._settings
        self._check_code(name)
        with quiet(), offline(settings.offline), chdir(settings.include_path or os.curdir):
            try:
                loaded = self._manager.load([name])
            except Exception as error:
                raise ValueError(f"{_KEY}.tasks: {self._why_not(name, error)}") from error
        for task in loaded["tasks"].values():
            fixed = task.get_config("num_fewshot")
            shots = fixed if settings.fewshot is None or fixed == 0 else settings.fewshot
            task.set_config(key="num_fewshot", value=shots or 0)
            task.set_fewshot_seed(seed=_FEWSHOT_SEED)
        return loaded

    def load_as_found(self, name: str, digest: str) -> Any:
        """The tasks behind a name, if they are what they were when they were found. Raises ValueError likewise, and
        where they are not."""
        loaded = self.load(name)
        if self.facts(name, loaded).digest != digest:
            raise ValueError(
                f"{_KEY}.tasks: {name!r} is not what it was when the evaluation began; its files changed meanwhile or "
                "are others on this node: make them the same on all nodes, and evaluate again"
            )
        return loaded

    def facts(self, name: str, loaded: Any) -> HarnessTask:
        """What a run keeps of a name's tasks."""
        tasks = loaded["tasks"]
        items = {n: min(len(task.eval_docs), self._settings.limit or len(task.eval_docs)) for n, task in tasks.items()}
        digests = [[n, self._digest(task)] for n, task in tasks.items()]
        metrics = {n: [str(metric) for metric in task.aggregation()] for n, task in tasks.items()}
        return HarnessTask(name, hash_json([_version(), self._settings.chat, digests]), items, metrics)

    def _digest(self, task: Any) -> str:
        """Of a task's settings, functions, and items; the examples before them with those they are drawn from."""
        how = {key: value for key, value in task.dump_config().items() if key not in _ABOUT_PLACES}
        digest = hashlib.sha256(json.dumps(how, sort_keys=True, default=str).encode())
        shots = task.get_config("num_fewshot")
        for docs in (islice(task.eval_docs, self._settings.limit), (task.fewshot_docs() or ()) if shots else ()):
            for doc in docs:
                digest.update(json.dumps(doc, sort_keys=True, default=str).encode())
        return digest.hexdigest()

    def _members(self, name: str, inherited: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
        """The tasks behind a name with their settings, functions as names."""
        entry = self._manager.task_index.get(name)
        own = {**((entry.cfg or {}) if entry is not None else {}), **inherited}
        if entry is not None and entry.cfg is None:  # a tag
            for member in sorted(entry.tags):
                yield from self._members(member, inherited)
        elif isinstance(own.get("task"), list):
            below = {key: value for key, value in own.items() if key not in ("task", "group")}
            for member in own["task"]:
                changes = member if isinstance(member, dict) else {"task": member}
                called = str(changes.get("group") or changes["task"])
                more = {k: v for k, v in changes.items() if k not in ("group", "task") or isinstance(v, list)}
                yield from self._members(called, below | more)
        else:
            yield name, own

    def _check_code(self, name: str) -> None:
        for task, own in self._members(name, {}):
            metrics = [str(metric.get("metric")) for metric in own.get("metric_list") or ()]
            if not self._run_code and (own.get("unsafe_code") or any(_RUNS_CODE in metric for metric in metrics)):
                raise ValueError(f"{_KEY}.tasks: {task!r} {NO_CODE}")

    def _unknown(self, name: str) -> str:
        known, folder = self._manager.all_tasks, self._settings.include_path
        where = f" nor in a YAML file below {folder!r}" if folder else "; name your own tasks' folder in include_path"
        near = difflib.get_close_matches(name, known, 1, 0.6)
        guess = f"; did you mean {near[0]!r}?" if near else ""
        broken = next((f"; {path} cannot be read: {why}" for path in _yaml_files(folder) if (why := _fault(path))), "")
        return f"{name!r} is no task of lm-evaluation-harness{where}{guess}{broken}"

    def _why_not(self, name: str, error: Exception) -> str:
        """What keeps a task from being loaded, and what to do."""
        for task, own in self._members(name, {}):
            source, kwargs = str(own.get("dataset_path") or ""), own.get("dataset_kwargs") or {}
            called = repr(name) if task == name else f"{name!r} ({task})"
            if lacking := self._lacking(kwargs.get("data_files")):
                return (
                    f"{called} reads {lacking!r}, and there is no such file; relative ones start at "
                    f"include_path, {self._settings.include_path!r}"
                )
            if source and not kwargs.get("data_files") and not self._is_local(source) and _is_offline(error):
                return (
                    f"{called} reads the data set {source!r} of the Hugging Face Hub, which is not in the cache here, "
                    f"and {_KEY}.offline is on; write a task over a local file (dataset_path: json, data_files), or "
                    f"set {_KEY}.offline to false"
                )
        said = f"{name!r} cannot be loaded: {type(error).__name__}: {' '.join(str(error).split())[:300]}"
        if self._settings.offline and "Hub" in said:
            said += f"; {_KEY}.offline is on, so only what is local or in the Hub's cache here is to be had"
        return said

    def _is_local(self, source: str) -> bool:
        return os.path.exists(os.path.join(self._settings.include_path or os.curdir, source))

    def _lacking(self, files: Any) -> str | None:
        """The first of some data files that is not there; patterns and what is elsewhere are not looked for."""
        if isinstance(files, dict | list):
            inner = files.values() if isinstance(files, dict) else files
            return next((found for one in inner if (found := self._lacking(one))), None)
        if not isinstance(files, str) or "://" in files or any(c in files for c in "*?["):
            return None
        return None if self._is_local(files) else files


_FEWSHOT_SEED = 1234
"""What lm_eval.simple_evaluate draws examples by, so that scores are those that others have."""


def _version() -> str:
    import lm_eval

    return str(lm_eval.__version__)


def _yaml_files(folder: str | None) -> list[Path]:
    return sorted(Path(folder).rglob("*.yaml")) if folder else []


def _fault(path: Path) -> str | None:
    """Why a file is no YAML; None of one that is."""
    try:
        yaml.compose(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        return " ".join(str(error).split())
    return None


def _is_offline(error: BaseException | None) -> bool:
    """Whether an error, or what it follows from, is that the Hub was not to be reached."""
    while error is not None:
        if isinstance(error, ConnectionError) or "offline" in f"{type(error).__name__} {error}".lower():
            return True
        error = error.__cause__ or error.__context__
    return False
