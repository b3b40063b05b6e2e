"""The folder of one run: its identity, and what is done in it.

attempts/ config.resolved.yaml environment.json prompts/ targets/ students/ exports/ events/ report.json report.md
"""

from __future__ import annotations

import json
import os
import platform
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

from cluster.storage import Storage, join, open_storage
from orchestrator.config import RunConfig
from orchestrator.config_file import ConfigFile, dump, load_config, validate

CONFIG_KEY, ENVIRONMENT_KEY = "config.resolved.yaml", "environment.json"

_FREE_TO_CHANGE = ("cluster", "export", "storage")
"""Parts that do not change what was taught or trained; a later attempt may have others."""

_FROZEN_BY_PROMPTS = ("heldout", "samples", "text", "precision", "probes")
"""Settings of `evaluate` that are fixed once the held-out prompts are frozen; the others may change."""

_FREE_FIELDS = (
    *("replicas", "placement", "label_selector", "cpus_per_rank", "cpus_per_worker", "threads_per_rank"),
    *("threads_per_worker", "max_failures", "workers", "resize_s", "zero", "checkpoint_steps", "checkpoint_s"),
)
"""Fields of teachers and specialists of which the same holds."""

_PACKAGES = ("stillhouse", "ray", "torch", "deepspeed", "transformers", "pyarrow", "s3fs")


class RunFolder:
    """One run's place in storage."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self.storage: Storage = open_storage(uri)

    @staticmethod
    def of(config: RunConfig) -> RunFolder:
        return RunFolder(join(config.storage, config.name))

    def open(self, file: ConfigFile) -> None:
        """Make the run, or go on with it. Raises ValueError if the name exists with another configuration."""
        self.refuse_other(file.config)
        self.storage.write(CONFIG_KEY, dump(file.config).encode())
        self.storage.write(ENVIRONMENT_KEY, json.dumps(_environment(file.base), indent=1).encode())

    def refuse_other(self, wanted: RunConfig) -> None:
        """Raise ValueError, saying what differs, if the run exists with another configuration."""
        if self.storage.exists(CONFIG_KEY) and (changes := differences(self.config(), wanted)):
            raise ValueError(
                f"run {wanted.name!r} exists at {self.uri} with another configuration: {'; '.join(changes)}. "
                "Choose another name (--set name=...), or the settings of the first run"
            )

    def config(self) -> RunConfig:
        """The configuration as it was written. Raises ValueError if there is no run here."""
        try:
            return validate(yaml.safe_load(self.storage.read(CONFIG_KEY)))
        except FileNotFoundError:
            raise ValueError(f"no run at {self.uri!r}") from None

    def located_config(self) -> RunConfig:
        """The configuration with absolute paths, from the folder that it was first read from."""
        return ConfigFile(self.config(), Path(self.environment()["config_folder"])).located()

    def environment(self) -> dict[str, Any]:
        return json.loads(self.storage.read(ENVIRONMENT_KEY))

    def read_json(self, key: str) -> Any:
        """A JSON value, or None where there is none yet."""
        try:
            return json.loads(self.storage.read(key))
        except FileNotFoundError:
            return None

    def student_done(self, name: str) -> dict[str, Any] | None:
        """What a specialist or control left when its training ended; None before."""
        return self.read_json(f"students/{name}/done.json")

    def export_key(self, name: str) -> str:
        return f"exports/{name}"


def find_run(where: str) -> RunFolder:
    """A run by its name below runs/, its folder, its URI, or its configuration file."""
    if where.endswith((".yaml", ".yml")):
        return RunFolder.of(load_config(Path(where), []).located())
    candidates = [where] if "://" in where or "/" in where or Path(where, CONFIG_KEY).exists() else [f"runs/{where}"]
    run = RunFolder(candidates[0])
    run.config()
    return run


def differences(old: RunConfig, new: RunConfig) -> list[str]:
    """What a later configuration says otherwise, as `key: old -> new`. New specialists may be added to a run."""
    a, b = old.model_dump(mode="json"), new.model_dump(mode="json")
    for data in (a, b):
        for key in _FREE_TO_CHANGE:
            data.pop(key)
        data["evaluate"] = {k: data["evaluate"][k] for k in _FROZEN_BY_PROMPTS}
    for name in set(b["specialists"]) - set(a["specialists"]):
        b["specialists"].pop(name)
    flat_a, flat_b = _flatten(a), _flatten(b)
    shown = new.teacher_key("teacher")
    return [
        f"{key.replace('teachers.teacher', shown)}: {flat_a.get(key, 'nothing')} -> {flat_b.get(key, 'nothing')}"
        for key in dict.fromkeys([*flat_a, *flat_b])
        if flat_a.get(key, "nothing") != flat_b.get(key, "nothing") and not _is_free(key)
    ]


def _is_free(key: str) -> bool:
    """Whether a key is `teachers.NAME.field` or `specialists.NAME.train.field` with a field that may change."""
    part, *rest = key.split(".")
    if part == "specialists":
        return len(rest) > 2 and rest[1] == "train" and rest[2] in _FREE_FIELDS
    return part == "teachers" and len(rest) > 1 and rest[1] in _FREE_FIELDS


def _flatten(data: Any, path: str = "") -> dict[str, Any]:
    if isinstance(data, dict) and data:
        return {
            k: v
            for key, value in data.items()
            for k, v in _flatten(value, f"{path}.{key}" if path else str(key)).items()
        }
    return {path: data}


def _environment(base: Path) -> dict[str, Any]:
    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed as a package"
    return {
        "config_folder": str(base),
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "packages": versions,
    }
