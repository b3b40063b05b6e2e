"""Items as they are asked: token ids in files of the run, so that every model is asked the same, whatever becomes of
the file they came from.

A file's name is a hash of what is in it, and `tasks/asked.json` lists those that are asked now.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from cluster.storage import Storage
from workers.evaluation.tasks.formats import TextFormat
from workers.evaluation.tasks.items import TaskItem
from workers.layout import TASKS_ASKED, task_items_key

ITEMS_PER_UNIT = 64
"""Items in one file: the grain in which they are asked and their answers kept."""


@dataclass(frozen=True)
class TokenizedItem:
    """An item as models read it."""

    item: TaskItem
    prompt_token_ids: tuple[int, ...]
    choice_token_ids: tuple[tuple[int, ...], ...] = ()
    """What follows on the prompt's, by choice."""


@dataclass(frozen=True)
class AskedItems:
    """Items of one task, and how they are asked."""

    items: tuple[TokenizedItem, ...]
    normalise: Literal["none", "characters"] = "none"
    max_new_tokens: int = 64
    stop: tuple[str, ...] = ()
    format: TextFormat | None = None
    """What is written is to look like; None: anything."""

    def of_domains(self, domains: Collection[str]) -> AskedItems:
        """Those of them that are of some domains."""
        return replace(self, items=tuple(one for one in self.items if one.item.domain in domains))

    def to_bytes(self) -> bytes:
        """As JSON. A format that is not there is left out: files, and so their names, are those of earlier versions."""
        values = asdict(self)
        return json.dumps({k: v for k, v in values.items() if k != "format" or v is not None}).encode()

    @staticmethod
    def from_bytes(data: bytes) -> AskedItems:
        """From what `to_bytes` gave."""
        values = json.loads(data)
        items = tuple(_tokenized(item) for item in values.pop("items"))
        form = TextFormat(**values["format"]) if values.get("format") is not None else None
        return AskedItems(**values | {"items": items, "stop": tuple(values["stop"]), "format": form})


@dataclass(frozen=True)
class ItemsUnit:
    """A file of items: where it is, and the domains and the number of its items."""

    key: str
    domains: tuple[str, ...]
    items: int


def freeze_items(storage: Storage, units: Iterable[AskedItems]) -> list[ItemsUnit]:
    """Keep items in a run, and note that these are asked now."""
    kept = []
    for unit in units:
        data = unit.to_bytes()
        key = task_items_key(hashlib.sha256(data).hexdigest()[:16])
        storage.create(key, data)
        kept.append(ItemsUnit(key, tuple(sorted({i.item.domain for i in unit.items})), len(unit.items)))
    storage.write(TASKS_ASKED, json.dumps([asdict(unit) for unit in kept]).encode())
    return kept


def asked_now(storage: Storage) -> list[ItemsUnit]:
    """The files of items that are asked now; none where nothing was kept."""
    try:
        units = json.loads(storage.read(TASKS_ASKED))
    except FileNotFoundError:
        return []
    return [ItemsUnit(**unit | {"domains": tuple(unit["domains"])}) for unit in units]


def in_units(items: Sequence[TokenizedItem], **how: Any) -> list[AskedItems]:
    """Items in portions of a unit, each with how they are asked."""
    starts = range(0, len(items), ITEMS_PER_UNIT)
    return [AskedItems(tuple(items[start : start + ITEMS_PER_UNIT]), **how) for start in starts]


def _tokenized(values: dict[str, Any]) -> TokenizedItem:
    item = TaskItem(**values["item"] | {"choices": tuple(values["item"]["choices"])})
    return TokenizedItem(item, tuple(values["prompt_token_ids"]), tuple(map(tuple, values["choice_token_ids"])))
