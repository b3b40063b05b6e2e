"""When a worker group counts as hung: its ranks' counts of forward passes stand still, or one does not answer. Pure."""

from __future__ import annotations

from collections.abc import Iterable


class HangDetector:
    """The ranks' signs of life during one call. Seconds of any monotonic clock.

    Ranks wait for each other in every forward pass, so that progress of any is progress of the worker group; and a
    stopped one stops them all.
    """

    def __init__(self, ranks: int, deadline_s: float, now: float) -> None:
        self._deadline_s = deadline_s
        self._steps: dict[int, int] = {}
        self._moved = now
        self._heard = dict.fromkeys(range(ranks), now)

    def heard(self, rank: int, steps: int, now: float) -> None:
        """A rank answered, with its count."""
        self._heard[rank] = now
        if self._steps.get(rank) != steps:
            self._steps[rank] = steps
            self._moved = now

    def silent(self, running: Iterable[int], now: float) -> list[int]:
        """Of the ranks that still run, those that have not answered for the deadline."""
        return [r for r in running if now - self._heard[r] >= self._deadline_s]

    def stalled(self, now: float) -> bool:
        """Whether no rank has made a step for the deadline."""
        return now - self._moved >= self._deadline_s
