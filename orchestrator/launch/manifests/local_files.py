"""What a configuration names on this machine: files that go along, and what cannot, with what to do instead."""

from __future__ import annotations

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

_INSTEAD = {
    "model": "name it by its Hugging Face id, or upload the folder and name it as s3://bucket/folder",
    "data": "upload it, and name it as s3://bucket/...",
    "folder": "take what nodes have themselves, or evaluate on a machine that has the folder",
}
"""What to do about an input of this machine, by its kind."""


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
    faults = [f"{key}: {name!r} is a folder or file of this machine; {what}" for key, name, what in _local(file)]
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


def _local(file: ConfigFile) -> Iterator[tuple[str, str, str]]:
    """Key, path and remedy of each setting that names something of this machine, but for what goes along."""
    for given, path in file.local_inputs():
        if (remedy := _INSTEAD.get(given.kind)) is not None:
            yield given.key, str(path), remedy
    continues = file.located().continues
    if continues is not None and isinstance(older := continues.generation, str) and "://" not in older:
        yield "continues.generation", older, "name a run on s3://"


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
