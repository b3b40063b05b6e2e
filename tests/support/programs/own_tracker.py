"""A tracker's process with a tracker of the tests: it keeps points in a file, raises, or hangs, as KIND says.

python own_tracker.py KIND FILE RUN STORAGE ATTEMPT NAME SETTINGS
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from orchestrator.trackers.points import Point
from orchestrator.trackers.process import main


class OwnTracker:
    """Keeps what it gets, a line a point. Of `raises` and `hangs`, the second call does so, as long as FILE.bad is
    there."""

    def __init__(self, kind: str, file: Path) -> None:
        self._kind, self._file, self._calls = kind, file, 0
        if kind == "gone":
            raise ConnectionError("nobody answers at nowhere:1")

    def send(self, points: Sequence[Point]) -> None:
        """Keep points."""
        self._calls += 1
        if self._calls > 1 and self._file.with_suffix(".bad").exists():
            if self._kind == "raises":
                raise RuntimeError("quota\nexceeded")
            if self._kind == "hangs":
                time.sleep(600)
        with self._file.open("a") as out:
            for point in points:
                out.write(json.dumps([point.student, point.step, point.named()]) + "\n")

    def close(self) -> None:
        """Hang, where that is asked."""
        if self._kind == "never-closes":
            time.sleep(600)


if __name__ == "__main__":
    kind, file, *arguments = sys.argv[1:]
    main(arguments, lambda name, config, group: OwnTracker(kind, Path(file)))
