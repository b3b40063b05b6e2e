"""How far a reader reads ahead: as many units as are used up while one is fetched and decoded."""

from __future__ import annotations

import math
import time

_LEAST, _MOST = 4, 64
"""Units, of all domains together. Memory bounds them too (unit_reader.py)."""
_MARGIN = 2.0
"""More than the mean asks for, as requests to S3 differ."""
_MEMORY = 16
"""Units over which the means are taken, about."""


class Pace:
    """Seconds to read a unit, and seconds to use one up."""

    def __init__(self) -> None:
        self._read_s = self._use_s = 0.0
        self._asked: float | None = None
        self._served = 0.0

    def note_read(self, seconds: float) -> None:
        """A unit was fetched and decoded, by whichever thread."""
        self._read_s = _mean(self._read_s, seconds)

    def ask(self) -> None:
        """A unit that is not in memory is asked for."""
        now = time.monotonic()
        if self._asked is not None:
            self._use_s = _mean(self._use_s, now - self._served)
        self._asked = now

    def serve(self) -> None:
        """It is there. The time until the next one is asked for is what it is used for."""
        self._served = time.monotonic()

    @property
    def ahead(self) -> int:
        """Units to read ahead."""
        if self._read_s == 0:
            return _LEAST
        return min(max(_LEAST, math.ceil(_MARGIN * self._read_s / max(self._use_s, 1e-6))), _MOST)


def _mean(so_far: float, value: float) -> float:
    return so_far + (value - so_far) / _MEMORY if so_far else value
