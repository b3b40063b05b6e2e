"""How specialists share a cluster: how many at once, and when each takes its place."""

from __future__ import annotations

from pydantic import Field

from cluster.settings import Settings, Share


class FanOutConfig(Settings):
    """Which specialists train when. Who goes first is `priority` of each. May differ between attempts."""

    at_once: int | None = Field(default=None, ge=1)
    """Specialists that train, or look for a place, at the same time at most. Null: all for which there is room."""

    pending: int = Field(default=8, ge=1)
    """Specialists that look for a place at the same time at most: the demand that an autoscaler sees at once. Each
    takes 200 MB on the driver's node while it trains or looks."""

    wait: Share | None = Field(default=None, ge=0, le=1)
    """Share of the time in its place that a specialist may be expected to wait for targets when it takes it; until then
    others have the place. 100 %: it begins with the first unit. Null: 10 % of a specialist on GPUs, 100 % of one on
    CPUs."""

    def wait_of(self, gpus_per_worker: float) -> float:
        """`wait`, where it is null as well."""
        if self.wait is not None:
            return self.wait
        return 0.1 if gpus_per_worker else 1.0
