"""The folder of one run: its identity, and what is done in it. Its keys are in workers/layout.py."""

from __future__ import annotations

import json
import os
import platform
import re
import sys
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import yaml

from cluster.storage import Storage, join, open_storage
from orchestrator.config.continuing import run_uri
from orchestrator.config.loading import ConfigFile, dump, load_config
from orchestrator.config.schema import RunConfig
from orchestrator.runs.identity import LaterSpecialists, as_begun, differences, from_stored, later_specialists
from workers.layout import (
    CONFIG,
    ENVIRONMENT,
    PROMPTS_SUMMARY,
    StoreLayout,
    StudentLayout,
    generation_uri,
    split_generation,
)
from workers.splits import HELDOUT

_PACKAGES = ("stillhouse", "ray", "torch", "deepspeed", "transformers", "pyarrow", "s3fs")


class RunFolder:
    """One run's place in storage, or that of one of its generations."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self.storage: Storage = open_storage(uri)

    @staticmethod
    def of(config: RunConfig) -> RunFolder:
        """That of a configuration. Raises ValueError where it is to go on, and not said from which generation."""
        return RunFolder(run_uri(config))

    @staticmethod
    def newest(run: str) -> RunFolder:
        """The last generation of the run whose folder this is; of one without any, the first."""
        number = 1
        while open_storage(generation_uri(run, number + 1)).exists(CONFIG):
            number += 1
        return RunFolder(generation_uri(run, number))

    @property
    def generation(self) -> int:
        """Which generation of its run it is; 1 is the run as it was first made."""
        return split_generation(self.uri)[1]

    def open(self, file: ConfigFile) -> ConfigFile:
        """Create the run, or resume it; returns its configuration, in which nothing is open that the run has settled.

        Raises ValueError if the name exists with another configuration.
        """
        self.refuse_other(file.config)
        later = self._later(file)
        file = replace(file, config=later.work)
        self.storage.write(CONFIG, dump(self._settled(later.written)).encode())
        self.storage.write(ENVIRONMENT, json.dumps(_environment(file.base), indent=1).encode())
        return file

    def as_begun(self, file: ConfigFile) -> ConfigFile:
        """A configuration with what it leaves open, and specialists that say otherwise now, as this run was begun,
        where there is one. Raises ValueError where nothing is left to work on."""
        return replace(file, config=self._later(file).work)

    def left_alone(self, file: ConfigFile) -> tuple[str, ...]:
        """The specialists of this run that a configuration leaves as they are, and why, in words."""
        return self._later(file).left

    def _later(self, file: ConfigFile) -> LaterSpecialists:
        if not self.storage.exists(CONFIG):
            return LaterSpecialists(file.config, file.config, ())
        begun = self.config()
        return later_specialists(begun, as_begun(begun, file.config), lambda name: self.student_done(name) is not None)

    def withdraw(self) -> None:
        """Give the name free again after a request that was refused before its prompts were frozen: nothing is made
        yet, and the next try will have other settings."""
        if not self.storage.exists(PROMPTS_SUMMARY):
            self.storage.delete(CONFIG)

    def refuse_other(self, wanted: RunConfig) -> None:
        """Raise ValueError, saying what differs, if the run exists with another configuration."""
        if not self.storage.exists(CONFIG):
            return
        if changes := differences(self._settled(self.config()), self._settled(wanted)):
            raise ValueError(
                f"run {wanted.name!r} exists at {self.uri} with another configuration: {'; '.join(changes)}. "
                "Choose another name (--set name=...), or the settings of the first run; or let it go on with these "
                "(--continue)"
            )

    def config(self) -> RunConfig:
        """The configuration as it was written. Raises ValueError if there is no run here."""
        try:
            return from_stored(yaml.safe_load(self.storage.read(CONFIG)))
        except FileNotFoundError:
            raise ValueError(f"no run at {self.uri!r}; `stillhouse runs STORAGE` lists those of a storage") from None

    def exact_scheme(self) -> Literal["full", "hidden"] | None:
        """How the held-out store keeps exact distributions; None before there is one."""
        header = self.read_json(StoreLayout(HELDOUT).header)
        return None if header is None else header["scheme"]

    def _settled(self, config: RunConfig) -> RunConfig:
        """A configuration with what it leaves to the run as the run has it."""
        if config.evaluate.targets != "auto" or (scheme := self.exact_scheme()) is None:
            return config
        return config.model_copy(update={"evaluate": config.evaluate.model_copy(update={"targets": scheme})})

    def located_config(self) -> RunConfig:
        """The configuration with absolute paths, from the folder that it was first read from."""
        config, (storage, _, name) = self.config(), split_generation(self.uri)[0].rpartition("/")
        if config.continues is not None and name == config.name:
            config = config.model_copy(update={"storage": storage})  # older generations lie beside it, wherever it is
        return ConfigFile(config, Path(self.environment()["config_folder"])).located()

    def environment(self) -> dict[str, Any]:
        return json.loads(self.storage.read(ENVIRONMENT))

    def read_json(self, key: str) -> Any:
        """A JSON value, or None where there is none yet."""
        try:
            return json.loads(self.storage.read(key))
        except FileNotFoundError:
            return None

    def student_done(self, name: str) -> dict[str, Any] | None:
        """What a specialist or control left when its training ended; None before."""
        return self.read_json(StudentLayout(name).done)


def find_run(where: str) -> RunFolder:
    """A run by its name below runs/, its folder, its URI, or its configuration file: its last generation, or the one
    that `@2` behind it names, or whose folder it is. Raises ValueError where there is none."""
    named = re.fullmatch(r"(.+)@([1-9][0-9]*)", where)
    where, wanted = (named[1], int(named[2])) if named else (where, None)
    if where.endswith((".yaml", ".yml")):
        file = load_config(Path(where), [])
        continues = file.config.continues
        if continues is not None and continues.generation is not None and wanted is None:
            return RunFolder.of(file.located())
        where = join(file.storage, file.config.name)
    elif not ("://" in where or "/" in where or Path(where, CONFIG).exists()):
        where = f"runs/{where}"
    where, own = split_generation(where)
    if wanted is not None and own > 1:
        raise ValueError(f"{where}: generation {own} of a run, of which {wanted} is none; name the run's folder")
    run = RunFolder(generation_uri(where, wanted or own)) if wanted or own > 1 else RunFolder.newest(where)
    run.config()
    return run


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
