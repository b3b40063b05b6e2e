"""The configuration that runs on the cluster: the user's own, with what was set, and selectors that groups meet."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from cluster.nodes.kinds import ROLE
from orchestrator.config.loading import ConfigFile, read_data, validate
from orchestrator.config.schema import RunConfig
from orchestrator.launch.manifests.local_files import carried_files, refuse_local, text_of
from orchestrator.launch.manifests.nodes import Role


@dataclass(frozen=True)
class RunFile:
    """A run's configuration as the cluster gets it, and the small files beside it."""

    file: ConfigFile
    """With paths as they are on this machine, for checks."""
    data: dict[str, Any]
    """With those that it has there."""
    beside: dict[str, str]
    """Texts by file name."""
    selected: bool
    """Whether selectors were set that the user's has not."""

    @property
    def config(self) -> RunConfig:
        return self.file.config

    @property
    def text(self) -> str:
        """As YAML, in the order and the forms in which it was written."""
        return yaml.safe_dump(self.data, sort_keys=False, width=110, allow_unicode=False)


def run_file(path: Path, settings: list[str], *, select: bool) -> RunFile:
    """Read a configuration for a cluster; where `select`, teachers, students and evaluator that ask for no label get a
    selector of their role. Raises ValueError, a line for each fault."""
    data = _unshared(read_data(path, settings))
    config = validate(data)
    selected = _select(data, config) if select else False
    file = ConfigFile(validate(data), path.absolute().parent)
    refuse_local(file)
    there, beside = deepcopy(data), dict[str, str]()
    for carried in carried_files(file):
        carried.place(there, carried.name)
        beside[carried.name] = text_of(carried)
    validate(there)
    return RunFile(file, there, beside, selected)


def _unshared(value: Any) -> Any:
    """The same data in which nothing is there twice: an alias of YAML is one object, and would be changed as one."""
    if isinstance(value, dict):
        return {key: _unshared(item) for key, item in value.items()}
    return [_unshared(item) for item in value] if isinstance(value, list) else value


def _select(data: dict[str, Any], config: RunConfig) -> bool:
    """Put selectors into data where its parts have none; returns whether there were such."""
    free = [name for name, teacher in config.teachers.items() if not teacher.label_selector]
    for name in free:
        teacher = data["teacher"] if "teacher" in data else data["teachers"][name]
        teacher["label_selector"] = {ROLE: "teacher"}
    students = [name for name, specialist in config.specialists.items() if not specialist.train.label_selector]
    if students and len(students) == len(config.specialists):
        _part(_part(data, "defaults"), "train")["label_selector"] = {ROLE: "student"}
    else:
        for name in students:
            _part(_part(data["specialists"], name), "train")["label_selector"] = {ROLE: "student"}
    scores = _evaluators_role(config) if not config.evaluate.label_selector else None
    if scores is not None:
        _part(data, "evaluate")["label_selector"] = {ROLE: scores}
    return bool(free or students or scores)


def _evaluators_role(config: RunConfig) -> Role | None:
    """Of the nodes on which the evaluator has room when teachers' may have left; None where only those have GPUs."""
    if not config.evaluate.gpus:
        return "cpu"
    return "student" if any(s.train.gpus_per_worker for s in config.specialists.values()) else None


def _part(data: dict[str, Any], key: str) -> dict[str, Any]:
    """A mapping in a mapping, which may be left out or null."""
    if data.get(key) is None:
        data[key] = {}
    part: dict[str, Any] = data[key]
    return part
