"""What a configuration names on this machine: files that go along, and what cannot, with what to do instead."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.config.loading import ConfigFile
from orchestrator.config.schema import RunConfig

CONFIG_NAME = "run.yaml"
"""What the run's configuration is called on the cluster."""

_MOST_BYTES = 900_000
"""Of all files that go along: a ConfigMap holds 1 MiB."""

_FILE_NAME = re.compile(r"[A-Za-z0-9][-._A-Za-z0-9]*")

_MODEL = "name it by its Hugging Face id, or upload the folder and name it as s3://bucket/folder"
_DATA = "upload it, and name it as s3://bucket/..."


@dataclass(frozen=True)
class Carried:
    """A small file that goes along with the configuration."""

    key: str
    name: str
    """On the cluster, beside the configuration."""
    path: Path
    place: Callable[[dict[str, Any], str], None]
    """Puts its name into the data of a configuration."""


def refuse_local(file: ConfigFile) -> None:
    """Raise ValueError, a line for each setting that names a place of this machine which no node of a cluster has."""
    config = file.located()
    faults = [f"{key}: {name!r} is a folder or file of this machine; {what}" for key, name, what in _local(config)]
    if not config.storage.startswith("s3://"):
        faults.insert(
            0, f"storage: {file.config.storage!r} is a folder of this machine; name s3://bucket/prefix, for all nodes"
        )
    if config.cluster.address not in (None, "auto"):
        faults.append(
            f"cluster.address: {config.cluster.address!r} is another cluster than the rendered one; leave it out"
        )
    if faults:
        raise ValueError("\n".join(faults))


def carried_files(file: ConfigFile) -> list[Carried]:
    """The files that go along. Raises ValueError for one that is not there, or where all are too large."""
    found = list(_carried(file.located()))
    by_name: dict[str, Path] = {CONFIG_NAME: Path()}
    for item in found:
        if not item.path.is_file():
            raise ValueError(f"{item.key}: there is no file {str(item.path)!r}")
        if _FILE_NAME.fullmatch(item.name) is None:
            raise ValueError(
                f"{item.key}: {item.name!r} goes along with the configuration, and is to be of letters, digits, '-', "
                "'_' and '.'; rename it"
            )
        if by_name.setdefault(item.name, item.path) != item.path:
            raise ValueError(
                f"{item.key}: there is another file called {item.name!r}; they lie in one folder there, so rename one"
            )
    if (size := sum({item.path: item.path.stat().st_size for item in found}.values())) > _MOST_BYTES:
        raise ValueError(
            f"{', '.join(item.key for item in found)}: {size:,} bytes would go along, and {_MOST_BYTES:,} can; shorten "
            "them, or put large ones on S3"
        )
    return found


def text_of(carried: Carried) -> str:
    """A file's text. Raises ValueError where it is none, or holds what YAML cannot."""
    try:
        return carried.path.read_text(encoding="utf-8")
    except (UnicodeDecodeError, OSError) as error:
        raise ValueError(f"{carried.key}: cannot read {str(carried.path)!r} as text: {error}") from None


def _local(config: RunConfig) -> Iterator[tuple[str, str, str]]:
    """Key, path and remedy of each setting that names something of this machine."""
    named: list[tuple[str, str | None, str]] = []
    for name, teacher in config.teachers.items():
        named.append((f"{config.teacher_key(name)}.model", teacher.model, _MODEL))
    for name, specialist in config.specialists.items():
        named.append((f"specialists.{name}.model.base", specialist.model.base, _MODEL))
        named.append((f"specialists.{name}.model.merge_experts", specialist.model.merge_experts, _MODEL))
    named += [(f"evaluate.models.{name}", m.model, _MODEL) for name, m in config.evaluate.models.items()]
    named += [(f"prompts.{name}", s.path, _DATA) for name, s in config.prompts.items()]
    named += [(f"evaluate.tasks.{name}", t.path, _DATA) for name, t in config.evaluate.tasks.items()]
    if (harness := config.evaluate.harness) is not None:
        remedy = "take tasks that lm-evaluation-harness has itself, or evaluate on a machine that has the folder"
        named.append(("evaluate.harness.include_path", harness.include_path, remedy))
    if config.continues is not None and isinstance(config.continues.generation, str):
        named.append(("continues.generation", config.continues.generation, "name a run on s3://"))
    for key, path, what in named:
        if path and "://" not in path and os.path.isabs(path):
            yield key, path, what


def _carried(config: RunConfig) -> Iterator[Carried]:
    """Files that the driver and those who score read, and which are small."""
    functions = {("answers", "filter"): config.answers.filter, ("evaluate", "truth"): config.evaluate.truth}
    for keys, spec in functions.items():
        if spec is not None:
            file, _, function = spec.rpartition(":")
            yield _file(keys, file, f":{function}")
    if (probes := config.evaluate.probes) is not None:
        yield _file(("evaluate", "probes"), probes)
    for name, task in config.evaluate.tasks.items():
        if task.format is not None and isinstance(schema := task.format.json_schema, str):
            yield _file(("evaluate", "tasks", name, "format", "json_schema"), schema)


def _file(keys: tuple[str, ...], file: str, end: str = "") -> Carried:
    """A file that a setting names, perhaps with something behind its name."""

    def place(data: dict[str, Any], name: str) -> None:
        *parents, last = keys
        for key in parents:
            data = data[key]
        data[last] = f"{name}{end}"

    return Carried(".".join(keys), Path(file).name, Path(file), place)
