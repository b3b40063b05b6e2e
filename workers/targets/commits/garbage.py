"""What lies in the target stores and nobody needs: parts of writers that lost or died, and parts that were repaired.

A part is garbage if no unit's newest entry names it; a digest of the log, if others hold what it does. Only what is
older than an age counts, so that the part of a writer that is about to commit is left alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby

from cluster.storage import Storage
from workers.layout import TARGETS, StoreLayout
from workers.targets.commits.log import TargetLog

LOST, REPAIRED, TEMPORARY = "named by no entry", "repaired since", "left half written"
MERGED = "a digest of entries that are in others, or gone"
"""Why something is garbage."""


@dataclass(frozen=True)
class Garbage:
    """A file that can be deleted."""

    split: str
    key: str
    bytes: int
    modified: float
    """Seconds since 1970."""
    reason: str


def find_garbage(storage: Storage, before: float) -> list[Garbage]:
    """Garbage of all splits that was written before a time (seconds since 1970), in order of keys.

    Files are listed before the log is read: a part that is committed between the two is named.
    """
    found = []
    old = [f for f in storage.listing(TARGETS) if f.modified < before]
    logs = {split: _Names(storage, split) for split in sorted({_split(f.key) for f in old})}
    for file in old:
        split, name = _split(file.key), file.key.rsplit("/", 1)[1]
        if name.startswith(".tmp-"):
            reason = TEMPORARY
        elif file.key in logs[split].needless_digests:
            reason = MERGED
        elif not file.key.startswith(f"{StoreLayout(split).parts}/") or file.key in logs[split].needed:
            continue
        else:
            reason = REPAIRED if file.key in logs[split].superseded else LOST
        found.append(Garbage(split, file.key, file.bytes, file.modified, reason))
    return found


def delete_garbage(storage: Storage, garbage: Iterable[Garbage]) -> list[Garbage]:
    """Delete garbage, but for what the log, read once more, needs now; returns what was deleted."""
    garbage = list(garbage)
    logs = {split: _Names(storage, split) for split in {g.split for g in garbage}}
    gone = [g for g in garbage if g.key not in logs[g.split].needed]
    for item in gone:
        storage.delete(item.key)
    return gone


class _Names:
    """The parts that a log names: those of newest entries, and those that only superseded entries name."""

    def __init__(self, storage: Storage, split: str) -> None:
        log = TargetLog(storage, StoreLayout(split).root)
        self.needed: set[str] = set()
        self.superseded: set[str] = set()
        for _, revisions in groupby(log.every_revision(), key=lambda entry: entry.unit):
            *earlier, newest = ({part.key for part in entry.parts} for entry in revisions)
            self.needed |= newest
            self.superseded.update(*earlier)
        self.superseded -= self.needed
        self.needless_digests = set(log.needless_digests())


def _split(key: str) -> str:
    return key.split("/")[1]
