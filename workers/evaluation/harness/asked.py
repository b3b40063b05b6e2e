"""Tasks as they were found: what of them a run keeps, so that it notices when they change. No torch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from cluster.storage import Storage
from workers.layout import HARNESS_ASKED


@dataclass(frozen=True)
class HarnessTask:
    """A task, group or tag, by the name that the settings have for it."""

    name: str
    digest: str
    """Of all that its scores depend on but the model: its settings and functions, its items, how they are asked."""
    items: dict[str, int]
    """Items that are asked, by task: those of a group or tag, or itself."""
    metrics: dict[str, list[str]]
    """Metrics that it has, by task, as its settings name them."""


def tasks_to_bytes(tasks: Sequence[HarnessTask]) -> bytes:
    """As JSON."""
    return json.dumps([asdict(task) for task in tasks]).encode()


def tasks_from_bytes(data: bytes) -> list[HarnessTask]:
    """From what `tasks_to_bytes` gave."""
    return [HarnessTask(**values) for values in json.loads(data)]


def freeze_harness(storage: Storage, tasks: Sequence[HarnessTask]) -> None:
    """Note in a run which tasks are asked now."""
    storage.write(HARNESS_ASKED, tasks_to_bytes(tasks))


def harness_asked(storage: Storage) -> list[HarnessTask]:
    """The tasks that are asked now; none where nothing was noted."""
    try:
        return tasks_from_bytes(storage.read(HARNESS_ASKED))
    except FileNotFoundError:
        return []
