"""Named points at which a fault test can stop a process, so that it is killed exactly there.

Off unless STILLHOUSE_PAUSE_AT names a point (`name` or `name:N` for its N-th passing in this process).
"""

from __future__ import annotations

import os
import time
from collections import Counter
from pathlib import Path

_passed: Counter[str] = Counter()


def pause_point(name: str) -> None:
    """Where the environment asks for it: leave a marker file in STILLHOUSE_PAUSE_DIR and wait to be killed
    (or STILLHOUSE_PAUSE_S seconds)."""
    wanted = os.environ.get("STILLHOUSE_PAUSE_AT")
    if not wanted:
        return
    wanted_name, _, count = wanted.partition(":")
    if wanted_name != name:
        return
    _passed[name] += 1
    if _passed[name] == int(count or 1):
        Path(os.environ["STILLHOUSE_PAUSE_DIR"], name).write_text(str(os.getpid()))
        time.sleep(float(os.environ.get("STILLHOUSE_PAUSE_S", "3600")))
