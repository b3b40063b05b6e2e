"""What models' cards say of their licences, so that what is made of models can pass it on."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import yaml

from cluster.storage import open_storage
from workers.fetching import hub
from workers.fetching.names import folder_of, is_remote

_CARD = "README.md"

_FRONT_MATTER = re.compile(r"\s*---\r?\n(.*?)\r?\n---\s*(\n|$)", re.DOTALL)


@dataclass(frozen=True)
class Licence:
    """A licence as the front matter of a card on the Hugging Face Hub has it."""

    id: str
    """`license`: apache-2.0 for example, or `other`."""
    name: str | None = None
    """`license_name`, of one that is `other`."""
    link: str | None = None
    """`license_link`: where its text is."""

    @property
    def shown(self) -> str:
        """What people call it."""
        return self.name or self.id


@lru_cache
def licence_of(model: str, revision: str | None = None) -> Licence | None:
    """The licence that a model's card states: a folder's README.md, an s3:// folder's, or that of an id of the Hub,
    which is fetched where the cache lacks it. None where there is no card to be had, or it states none."""
    text = _card(model, revision)
    return None if text is None else licence_in(text)


def licence_in(card: str) -> Licence | None:
    """The licence that a card's front matter states; None for one that states none, or whose front matter cannot be
    read. Of several, which a card may list, all are its name."""
    found = _FRONT_MATTER.match(card)
    try:
        said = yaml.safe_load(found[1]) if found else None
    except yaml.YAMLError:
        return None
    if not isinstance(said, dict):
        return None
    named, link = (_text(said.get(key)) for key in ("license_name", "license_link"))
    ids = said.get("license")
    ids = [_text(i) for i in (ids if isinstance(ids, list) else [ids])]
    ids = [i for i in ids if i is not None]
    if not ids:
        return Licence("other", named, link) if named is not None else None
    return Licence(ids[0], named, link) if len(ids) == 1 else Licence("other", ", ".join(ids), link)


def _text(value: Any) -> str | None:
    return value.strip() or None if isinstance(value, str) else None


def _card(model: str, revision: str | None) -> str | None:
    try:
        if (folder := folder_of(model)) is not None:
            data = (folder / _CARD).read_bytes()
        elif is_remote(model):
            data = open_storage(model).read(_CARD)
        else:
            file = hub.one_file(model, revision, _CARD)
            data = file.read_bytes() if file is not None else b""
    except (OSError, ValueError):  # no card, or none that can be had from here
        return None
    return data.decode(errors="replace")
