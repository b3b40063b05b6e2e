"""What an attempt leaves of itself in one small file: enough to list many runs without reading what they told."""

from __future__ import annotations

from typing import Any

from orchestrator.config.schema import RunConfig
from orchestrator.monitors.progress import Progress
from orchestrator.reporting.money.held import Held
from orchestrator.reporting.money.spent import spent_of
from workers.channels.events import Event


class Summary:
    """A monitor that counts: the stage, who is done and who failed, what it took."""

    def __init__(self) -> None:
        self._progress, self._held = Progress(), Held()

    def start(self) -> None:
        """Nothing to do."""

    def take(self, event: Event) -> None:
        """Take one event in."""
        self._progress.take(event)
        self._held.take(event)

    def flush(self, *, force: bool = False) -> None:
        """Nothing to keep: the session writes it."""

    def stop(self) -> None:
        """Nothing to do."""

    def to_dict(self, config: RunConfig) -> dict[str, Any]:
        """As JSON values; seconds of places and dollars are this attempt's alone."""
        progress, total = self._progress, spent_of(self._held, config).total
        return {
            "stage": progress.stage,
            "done": [name for name, part in progress.students.items() if part.state == "done"],
            "failures": progress.failures,
            "outcome": progress.ended.outcome if progress.ended is not None else None,
            "cause": progress.ended.cause if progress.ended is not None else "",
            "cost": {"gpu_s": total.gpu_s, "cpu_s": total.cpu_s, "dollars": total.dollars},
        }
