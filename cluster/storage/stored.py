"""What both kinds of store share: a line of a listing, and the walk over a local folder."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Stored:
    """A file of a store: its key, its size in bytes, and when it was written (seconds since 1970)."""

    key: str
    bytes: int
    modified: float
    version: str
    """Another one when the key is made anew with other content: on S3 the ETag, locally the size and the time of the
    last change to the nanosecond."""


def files_below(folder: Path) -> Iterator[str]:
    """Names of all files below a local folder, relative to it, with forward slashes; sorted."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            yield path.relative_to(folder).as_posix()
