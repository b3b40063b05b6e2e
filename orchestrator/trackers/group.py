"""What a tracker is to us, and what a run is to a tracker."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from orchestrator.trackers.points import Point


@dataclass(frozen=True)
class Group:
    """A run, as trackers have it: one group, with a run of theirs for each student and one for the teachers."""

    run: str
    key: str
    """Its name and what tells it from others of that name; a run that is resumed finds its own again by it."""
    uri: str
    """Where its folder lies."""
    folder: str | None = None
    """That folder, where it is on this machine."""

    def id_of(self, student: str) -> str:
        """What a student's run, or that of the teachers (an empty name), is known by."""
        return f"{self.key}-{student}" if student else self.key


class Tracker(Protocol):
    """Where points go. Raises what its library raises: its process then ends, and another one goes on."""

    def send(self, points: Sequence[Point]) -> None:
        """Send points, in order; they have arrived, or are kept, when this returns."""

    def close(self) -> None:
        """No point comes after this."""
