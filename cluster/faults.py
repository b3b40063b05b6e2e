"""Named points at which a fault test can stop a process, so that it is killed exactly there, or make it fail.

All are off unless an environment variable names them:

    STILLHOUSE_PAUSE_AT=name or name:N    wait at a point, the first time or the N-th time that a process passes it
    STILLHOUSE_FAIL_AT=id,id              fail on the things of these ids, in every process and every time
    STILLHOUSE_ROOM_FOR=N                 find no memory for more than N things at once
    STILLHOUSE_DROP=events                lose everything of a kind that may be lost
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

GO_ON = "go-on"
"""Name of a file in STILLHOUSE_PAUSE_DIR that ends all waiting."""

_passed: Counter[str] = Counter()


def pause_point(name: str) -> None:
    """Where the environment asks for it: leave a marker file in STILLHOUSE_PAUSE_DIR and wait to be killed
    (or STILLHOUSE_PAUSE_S seconds, or until a file `go-on` is there). Only the first process to come to a point waits
    there."""
    wanted = os.environ.get("STILLHOUSE_PAUSE_AT")
    if not wanted:
        return
    wanted_name, _, count = wanted.partition(":")
    if wanted_name != name:
        return
    _passed[name] += 1
    folder = Path(os.environ["STILLHOUSE_PAUSE_DIR"])
    if _passed[name] == int(count or 1) and _is_first(folder / name):
        until = time.monotonic() + float(os.environ.get("STILLHOUSE_PAUSE_S", "3600"))
        while (left := until - time.monotonic()) > 0 and not (folder / GO_ON).exists():
            time.sleep(min(left, 0.05))


def _is_first(marker: Path) -> bool:
    try:
        with marker.open("x") as file:
            file.write(str(os.getpid()))
    except FileExistsError:
        return False
    return True


def fail_point(ids: Iterable[str]) -> None:
    """Raise RuntimeError where the environment asks for it on one of these."""
    wanted = os.environ.get("STILLHOUSE_FAIL_AT", "").split(",")
    for name in ids:
        if name in wanted:
            raise RuntimeError(f"{name!r} fails, as STILLHOUSE_FAIL_AT asks")


def memory_point(count: int) -> None:
    """Ask for more memory than there is (MemoryError) where the environment gives room for fewer things than these."""
    if count > int(os.environ.get("STILLHOUSE_ROOM_FOR", count)):
        bytearray(1 << 62)


def drops(kind: str) -> bool:
    """Whether the environment asks to lose everything of a kind."""
    return kind in os.environ.get("STILLHOUSE_DROP", "").split(",")
