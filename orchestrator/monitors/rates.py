"""How fast counts grow, and how a loss falls, in bounded memory. Pure; times are events' own."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from itertools import pairwise

_WINDOW_S = 60.0
_LEAST_POINTS, _MOST_POINTS = 8, 128


class Rate:
    """How fast a count grows lately: over the last minute, or over the last points where they lie farther apart."""

    def __init__(self) -> None:
        self._points: deque[tuple[float, float]] = deque()
        self._first: tuple[float, float] | None = None

    def add(self, time: float, count: float) -> None:
        """The count at a time. One that is below the last begins anew: work was lost, and is done again."""
        if self._points and count < self._points[-1][1]:
            self._points.clear()
            self._first = None
        self._first = self._first or (time, count)
        if len(self._points) > 1 and time - self._points[-2][0] < _WINDOW_S / _MOST_POINTS:
            self._points.pop()  # as good as the same moment
        self._points.append((time, count))
        while len(self._points) > _LEAST_POINTS and self._points[0][0] < time - _WINDOW_S:
            self._points.popleft()

    @property
    def per_second(self) -> float | None:
        """The rate; None before two moments are known."""
        if len(self._points) < 2:
            return None
        (first, least), (last, most) = self._points[0], self._points[-1]
        return (most - least) / (last - first) if last > first else None

    @property
    def overall(self) -> float | None:
        """The rate since the first count."""
        if self._first is None:
            return None
        (first, least), (last, most) = self._first, self._points[-1]
        return (most - least) / (last - first) if last > first else None


class Waits:
    """How long somebody waited for units, of the time that it was at work. A wait (for a batch, of one unit or of
    several) is told again and again while it lasts, each time with its whole length."""

    def __init__(self) -> None:
        self._over = self._present = self._worked = 0.0
        self._last: float | None = None

    def wait(self, time: float, seconds: float) -> None:
        """It has waited so long by now."""
        if seconds < self._present:
            self._end(0.0)
        self._present = seconds
        self._go_on(time)

    def work(self, time: float, waited: float = 0.0, in_all: float | None = None) -> None:
        """It works; before that it waited so long, and in all so long, where that is known."""
        self._end(waited)
        self._over = self._over if in_all is None else in_all
        self._go_on(time)

    def rest(self) -> None:
        """It is not at work: it has no place, loads, or is done."""
        self._end(0.0)
        self._last = None

    @property
    def seconds(self) -> float:
        """Of all waits."""
        return self._over + self._present

    @property
    def share(self) -> float | None:
        """Waiting, of the time at work; None before there was any."""
        return min(self.seconds / self._worked, 1.0) if self._worked else None

    def _end(self, waited: float) -> None:
        if self._present:
            self._over += max(self._present, waited)
        self._present = 0.0

    def _go_on(self, time: float) -> None:
        if self._last is not None:
            self._worked += max(time - self._last, 0.0)
        self._last = time


class Curve:
    """A sequence of any length as means of at most `most` stretches of it, all equally long."""

    def __init__(self, most: int = 64) -> None:
        self._most, self._length = most, 1
        self._means: list[float] = []
        self._last: list[float] = []

    def add(self, value: float) -> None:
        """One value more; what is no number is left out."""
        if not math.isfinite(value):
            return
        self._last.append(value)
        if len(self._last) < self._length:
            return
        self._means.append(sum(self._last) / len(self._last))
        self._last = []
        if len(self._means) == self._most:
            self._length *= 2
            self._means = [(a + b) / 2 for a, b in zip(self._means[::2], self._means[1::2], strict=True)]

    def values(self, most: int) -> list[float]:
        """The curve in at most so many means."""
        means = self._means + ([sum(self._last) / len(self._last)] if self._last else [])
        if len(means) <= most:
            return means
        edges = [round(i * len(means) / most) for i in range(most + 1)]
        return [_mean(means[a:b]) for a, b in pairwise(edges)]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
