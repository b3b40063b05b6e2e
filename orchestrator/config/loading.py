"""From a YAML file and `--set a.b=c` to a RunConfig, with errors that name the key, the value and the remedy."""

from __future__ import annotations

import difflib
import os
import types
import typing
from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from orchestrator.config.continuing import former_self
from orchestrator.config.inputs import Input, expanded, inputs_of
from orchestrator.config.schema import ContinuesConfig, RunConfig

_TOP_LEVEL_FORMS = ("teacher", "defaults")

_RENAMED = {"evaluate.against": "evaluate.baselines"}
"""Keys that had another name before version 0.1 was released; what they meant is not guessed."""

_SHORT_FORM_OF = {"prompts": "path", "evaluate": "share"}
"""What a plain value stands for, by the part of the configuration it is in; elsewhere it is a student's base."""

_RENAMED_VALUES = {"eroded": "single_expert", "set_aside": "reject"}


@dataclass(frozen=True)
class ConfigFile:
    """A configuration as it was written, and the folder that its relative paths start from."""

    config: RunConfig
    base: Path

    @property
    def storage(self) -> str:
        """Where the run's folder is made, as a URI or an absolute path."""
        storage = self.config.storage
        return storage if "://" in storage else os.path.abspath(expanded("storage", storage))

    def located(self) -> RunConfig:
        """The same configuration with paths of inputs made absolute (Hugging Face ids stay as they are)."""
        data = self.config.model_dump()
        data["storage"] = self.storage
        if data["continues"] and isinstance(older := data["continues"]["generation"], str) and "://" not in older:
            data["continues"]["generation"] = str((self.base / expanded("continues.generation", older)).absolute())
        continues = ContinuesConfig(**data["continues"]) if data["continues"] else None
        placed = self.config.model_copy(update={"storage": data["storage"], "continues": continues})
        for name, teacher in data["teachers"].items():
            teacher["model"] = former_self(placed, self.config.teacher_key(name), teacher["model"])
        for given in inputs_of(self.config, data):
            given.place[given.name] = given.located(self.base)
        return RunConfig.model_validate(data)

    def local_inputs(self) -> Iterator[tuple[Input, Path]]:
        """The inputs that lie on this machine, and where."""
        for given in inputs_of(self.config, self.config.model_dump()):
            if (path := given.path(self.base)) is not None:
                yield given, path


class UniqueKeys(yaml.SafeLoader):
    """YAML that refuses a duplicate key: a specialist pasted and not renamed would be lost silently."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, str) and key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"duplicate key {key!r}", key_node.start_mark)
            seen.add(key if isinstance(key, str) else id(key_node))
        return super().construct_mapping(node, deep)


def load_config(path: Path, settings: list[str]) -> ConfigFile:
    """Read a configuration file. Raises ValueError, one line per fault."""
    return ConfigFile(validate(read_data(path, settings)), path.absolute().parent)


def read_data(path: Path, settings: Sequence[str]) -> dict[str, Any]:
    """The plain data of a configuration file as it was written, with settings put in. Raises ValueError where it is no
    mapping; `validate` says what else is wrong with it."""
    try:
        data = yaml.load(path.read_text(encoding="utf-8-sig"), UniqueKeys)
    except FileNotFoundError:
        raise ValueError(f"no configuration file {str(path)!r}; `stillhouse init` writes one") from None
    except OSError as error:
        raise ValueError(f"cannot read the configuration {str(path)!r}: {error.strerror}") from None
    except RecursionError:
        raise ValueError(f"{path}: nested too deeply to be a configuration") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(data, dict):
        raise ValueError(f"{path}: expected keys such as name, teacher, prompts, specialists")
    apply_settings(data, settings)
    return data


def apply_settings(data: dict[str, Any], settings: Sequence[str]) -> None:
    """Put every `a.b=c` into plain data. Raises ValueError."""
    for setting in settings:
        _apply(data, setting)


def validate(data: dict[str, Any]) -> RunConfig:
    """A RunConfig from plain data with its short forms."""
    try:
        return RunConfig.model_validate(_expand(data))
    except ValidationError as error:
        raise ValueError("\n".join(dict.fromkeys(_explain(e, data) for e in error.errors()))) from None


def _apply(data: dict[str, Any], setting: str) -> None:
    """One `a.b=c` into the data; the value is read as YAML."""
    path, equals, value = setting.partition("=")
    if not equals or not path:
        raise ValueError(f"--set {setting}: expected a.b=value")
    place: Any = data
    *parents, last = path.strip().split(".")
    for key in parents:
        if place.get(key) is None:
            place[key] = {}
        if not isinstance(place[key], dict):
            place[key] = {"path" if "tasks" in parents else _SHORT_FORM_OF.get(parents[0], "base"): place[key]}
        place = place[key]
    try:
        place[last] = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ValueError(f"--set {setting}: the value is not YAML: {' '.join(str(error).split())}") from None


def _expand(data: dict[str, Any]) -> dict[str, Any]:
    """`teacher` becomes `teachers.teacher`; `defaults` is merged into each specialist."""
    data = deepcopy(data)
    if "teacher" in data:
        if "teachers" in data:
            raise ValueError("teacher, teachers: give one of the two (`teacher` is the short form for one teacher)")
        data["teachers"] = {"teacher": data.pop("teacher")}
    defaults = data.pop("defaults", None)
    defaults = {} if defaults is None else defaults
    if not isinstance(defaults, dict):
        raise ValueError(f"defaults: expected settings of a specialist, such as model and train (got {defaults!r})")
    if isinstance(data.get("specialists"), dict):
        data["specialists"] = {k: _merge(defaults, v or {}) for k, v in data["specialists"].items()}
    return data


def _merge(low: Any, high: Any) -> Any:
    if isinstance(low, dict) and isinstance(high, dict):
        return {
            k: _merge(low[k], high[k]) if k in low and k in high else deepcopy(high.get(k, low.get(k)))
            for k in [*low, *(k for k in high if k not in low)]
        }
    return deepcopy(high)


def _explain(error: Any, data: dict[str, Any]) -> str:
    """One line for one fault."""
    where = ".".join(str(p) for p in error["loc"])
    if "teacher" in data:
        where = where.replace("teachers.teacher", "teacher", 1)
    if where == "evaluate.heldout.share" and not isinstance(data["evaluate"]["heldout"], dict):
        where = "evaluate.heldout"  # as it was written
    if where in _RENAMED:
        return f"{where}: is called {_RENAMED[where]} now"
    if error["type"] == "literal_error" and isinstance(error["input"], str) and error["input"] in _RENAMED_VALUES:
        return f"{where}: {error['input']!r} is called {_RENAMED_VALUES[error['input']]!r} now"
    if error["type"] == "extra_forbidden":
        known = _fields_at(RunConfig, list(error["loc"])[:-1]) + (
            list(_TOP_LEVEL_FORMS) if len(error["loc"]) == 1 else []
        )
        near = difflib.get_close_matches(str(error["loc"][-1]), known, 1, 0.5)
        return f"{where}: unknown key" + (
            f"; did you mean {near[0]!r}?" if near else f"; known here: {', '.join(known)}"
        )
    if error["type"] == "missing":
        return f"{where}: is required"
    message = error["msg"].removeprefix("Value error, ")
    shown = "" if isinstance(error["input"], dict | list) else f" (got {error['input']!r})"
    return f"{where}: {message}{shown}" if where else message


def _fields_at(model: Any, loc: list[Any]) -> list[str]:
    """Names of the fields of the record at a location."""
    for key in loc:
        if isinstance(model, type) and issubclass(model, BaseModel):
            if key not in model.model_fields:
                return []
            model = model.model_fields[key].annotation
        elif typing.get_origin(model) in (dict, list):
            model = typing.get_args(model)[-1]
        if typing.get_origin(model) in (typing.Union, types.UnionType):
            model = next((a for a in typing.get_args(model) if isinstance(a, type) and issubclass(a, BaseModel)), model)
    return list(model.model_fields) if isinstance(model, type) and issubclass(model, BaseModel) else []


def dump(config: RunConfig) -> str:
    """The resolved configuration as YAML; loading it gives the same one."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, width=110)
