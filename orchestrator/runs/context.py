"""What a stage is given of the attempt that it works in. It knows neither the driver nor who watches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from cluster.lease import Lease, LeaseLost
from orchestrator.config.schema import RunConfig
from orchestrator.runs.errors import RunFailed
from orchestrator.runs.folder import RunFolder
from workers.channels.events import Event, Message, Stage, StageStarted


@dataclass(frozen=True)
class RunContext:
    """A run's folder, its configuration (with absolute paths), the lease on it, and whom to tell."""

    run: RunFolder
    config: RunConfig
    lease: Lease
    report: Callable[[Event], None]
    board: str = ""
    """Name of the board to which workers tell what happens; empty: none."""

    @property
    def epoch(self) -> int:
        """The number of this attempt."""
        return self.lease.epoch

    def say(self, text: str) -> None:
        """Tell a person something."""
        self.report(Message(text=text))

    def come_to(self, stage: Stage) -> None:
        """Tell which stage begins."""
        self.report(StageStarted(stage=stage))

    def require_lease(self, *, look: bool = True) -> None:
        """Raise RunFailed if another driver took the run over. Without `look`, only if a beat has found that out."""
        try:
            if look:
                self.lease.fence.check()
            else:
                self.lease.check()
        except LeaseLost as lost:
            raise RunFailed(str(lost)) from None

    def holds_lease(self) -> bool:
        """Whether the run is still this driver's."""
        try:
            self.require_lease()
        except RunFailed:
            return False
        return True
