"""Which replicas of a teacher may have a place, how long they may wait for one, and who no longer needs it. Pure.

The least replicas of all teachers are placed first, then students, then more replicas: they `grow` into what is left.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Literal

from cluster.placement import Patience

IDLE_S = 5.0
"""Seconds after which a replica that is ready has no unit queued."""


@dataclass
class Admission:
    """The replicas of one pass over units, by the ids of their actors."""

    units: int
    """To be captured in this pass."""
    least: int
    """Replicas that must find a place."""
    growing: bool = False
    """Whether replicas beyond the least may look for a place."""
    others: int = 0
    """Passes of other teachers that are at work, and will free their places."""
    admitted: set[str] = field(default_factory=set)
    placed: set[str] = field(default_factory=set)
    begun: set[Hashable] = field(default_factory=set)
    at_work: set[str] = field(default_factory=set)
    idle_since: dict[str, float] = field(default_factory=dict)
    freed: set[str] = field(default_factory=set)
    """Those whose places were freed, and who have not been admitted since."""

    def admit(self, replica: str, now: float) -> Literal["place", "wait", "nothing"]:
        """Whether a replica may look for a place now, must wait, or is not needed any more."""
        if self.left <= 0:
            return "nothing"
        if replica in self.freed and self.left <= len(self.admitted):
            return "wait"  # there is as little for it as when its place was freed: a node would come for nothing
        if replica in self.admitted or len(self.admitted) < self.least or self.growing:
            self.admitted.add(replica)
            self.freed.discard(replica)
            self.idle_since[replica] = now
            return "place"
        return "wait"

    def place(self, replica: str) -> int:
        """A replica has a place; returns how many have, or 0 where it is to free it: it was found to have no unit left
        while it looked."""
        if replica not in self.admitted:
            return 0
        self.placed.add(replica)
        return len(self.placed)

    def patience(self, replica: str) -> Patience:
        """How long a replica may wait for its place."""
        if replica in self.at_work:
            return "deadline"  # the unit that it holds waits with it
        if len(self.placed) >= self.least:
            return "forever"
        return "others" if self.others else "deadline"

    @property
    def left(self) -> int:
        """Units that no replica has begun."""
        return self.units - len(self.begun)

    def begin(self, replica: str, unit: Hashable) -> None:
        """A replica begins a unit, perhaps again."""
        self.begun.add(unit)
        self.admitted.add(replica)
        self.at_work.add(replica)

    def rest(self, replica: str, now: float) -> None:
        """A replica is ready for a unit: it has started, or its unit is committed."""
        self.at_work.discard(replica)
        self.idle_since[replica] = now

    def free(self, now: float) -> set[str]:
        """Replicas whose places are free from now on, as no unit is left for them.

        A replica at work begins what is queued behind its units by itself (calls_at_once), and may be given one more
        within moments, so that as many are no work for others. One queued for an idle replica is begun within moments.
        """
        if self.left > len(self.at_work):
            return set()
        idle = self.admitted - self.at_work
        idle = {r for r in idle if self.left <= 0 or now - self.idle_since[r] >= IDLE_S}
        self.admitted -= idle
        self.placed -= idle
        self.freed |= idle
        return idle
