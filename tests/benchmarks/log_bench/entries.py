"""Entries as a run with many units has them, and stores that hold them."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from cluster.storage import Storage
from workers.layout import FIRST_GENERATION
from workers.splits import TRAIN
from workers.targets.commits.log import Entry, Part

ROOT = f"targets/{TRAIN}"
LOG = f"{ROOT}/log/{FIRST_GENERATION}"

_AT_ONCE = 500
"""Entries that are sent to S3 together."""


def synthetic(unit: int) -> Entry:
    """An entry with the sizes of a real one: sampled targets of 16 answers."""
    digest = hashlib.sha256(str(unit).encode()).hexdigest()
    key = f"{ROOT}/parts/{FIRST_GENERATION}/{unit:08d}-{digest[:8]}.targets.parquet"
    return Entry(
        unit=unit,
        parts=(Part("targets", key, 90_000 + unit % 9_999, digest),),
        rows=16,
        tokens=5_400 + unit % 99,
        targets=4_200 + unit % 99,
        num_kept=40_000 + unit % 999,
        content_hash=digest[::-1],
        teacher="teacher",
        teacher_fingerprint="f" * 64,
        epoch=1,
        started=1.8e9 + unit * 1.234567,
        finished=1.8e9 + (unit + 1) * 1.234567,
        generated=4_200 + unit % 99,
    )


def key_of(unit: int) -> str:
    """Where the log keeps a unit's entry."""
    return f"{LOG}/{unit:08d}.json"


def fill_folder(folder: Path, first: int, last: int) -> None:
    """Entries as files, without the syncs that a commit takes its time over."""
    (folder / LOG).mkdir(parents=True, exist_ok=True)
    for unit in range(first, last):
        handle = os.open(folder / key_of(unit), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.write(handle, synthetic(unit).to_bytes())
        os.close(handle)


def fill_bucket(storage: Storage, first: int, last: int) -> None:
    """Entries as objects, many at once."""
    filesystem, base = storage.arrow_filesystem("")
    for start in range(first, last, _AT_ONCE):
        units = range(start, min(start + _AT_ONCE, last))
        filesystem.handler.fs.pipe({f"{base}{key_of(u)}": synthetic(u).to_bytes() for u in units})
