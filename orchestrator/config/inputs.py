"""Which settings name something to be read: models, prompts, files; and where that lies on this machine."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from orchestrator.config.schema import RunConfig

_DATA_FILES = (".jsonl", ".json", ".csv", ".parquet", ".gz", ".zst")


@dataclass
class Input:
    """A setting, in plain data of a configuration."""

    key: str
    place: dict[str, Any]
    name: str
    """Of the setting in its place."""
    kind: Literal["model", "data", "file", "folder", "function"]
    """A model or rows, which may as well be an id of the Hugging Face Hub or a URI; a small file; a folder; or
    `file.py:function`."""

    @property
    def value(self) -> str:
        """What it names."""
        return str(self.place[self.name])

    def located(self, base: Path) -> str:
        """The same with a relative path made absolute, from a folder on. Raises ValueError for an unknown home."""
        value = self.value
        if self.kind not in ("model", "data"):
            return str((base / expanded(self.key, value)).absolute())
        if not value or "://" in value:
            return value
        path = base / os.path.expanduser(value)
        looks_local = value.startswith((".", "/", "~")) or path.suffix in _DATA_FILES or any(c in value for c in "*?[")
        return str(path.absolute()) if os.path.exists(path) or looks_local else value

    def path(self, base: Path) -> Path | None:
        """Where it lies on this machine (a file, a folder, or a pattern); None for what is elsewhere."""
        place = self.located(base)
        if not os.path.isabs(place):
            return None
        return Path(os.path.normpath(place.rpartition(":")[0] if self.kind == "function" else place))


def inputs_of(config: RunConfig, data: dict[str, Any]) -> Iterator[Input]:
    """Those settings of a configuration that are given, in its plain data."""
    teachers, specialists, evaluate = data["teachers"], data["specialists"], data["evaluate"]
    found = [Input(f"{config.teacher_key(name)}.model", given, "model", "model") for name, given in teachers.items()]
    for name, specialist in specialists.items():
        of = specialist["model"]
        found += [Input(f"specialists.{name}.model.{key}", of, key, "model") for key in ("base", "merge_experts")]
    found += [Input(f"evaluate.models.{name}", of, "model", "model") for name, of in evaluate["models"].items()]
    found += [Input(f"prompts.{name}", source, "path", "data") for name, source in data["prompts"].items()]
    for name, task in evaluate["tasks"].items():
        found.append(Input(f"evaluate.tasks.{name}", task, "path", "data"))
        if task["format"] and isinstance(task["format"]["json_schema"], str):
            found.append(Input(f"evaluate.tasks.{name}.format.json_schema", task["format"], "json_schema", "file"))
    if evaluate["harness"]:
        found.append(Input("evaluate.harness.include_path", evaluate["harness"], "include_path", "folder"))
    found.append(Input("evaluate.probes", evaluate, "probes", "file"))
    found.append(Input("evaluate.truth", evaluate, "truth", "function"))
    found.append(Input("answers.filter", data["answers"], "filter", "function"))
    return (each for each in found if each.place[each.name])


def expanded(key: str, name: str) -> str:
    """A path with ~ replaced. Raises ValueError where there is no such home."""
    whole = os.path.expanduser(name)
    if whole.startswith("~"):
        raise ValueError(f"{key}: there is no home folder for {name!r}")
    return whole
