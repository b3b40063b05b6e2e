"""One driver's attempt at a run: checks, run folder, Ray session, and the events that come in while it works."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cluster.lease import Lease, LeaseLost
from cluster.placement import beside_driver
from cluster.session import ray_session
from orchestrator.checks import Checked, check
from orchestrator.config import RunConfig
from orchestrator.config_file import ConfigFile
from orchestrator.errors import RunFailed
from orchestrator.progress_view import ProgressView
from orchestrator.run_folder import RunFolder
from orchestrator.timing import timing

_SAVE_EVENTS_S = 5.0
CODE = Path(__file__).resolve().parent.parent


@dataclass
class Attempt:
    """One driver's attempt at a run: its folder, its view, its events."""

    config: RunConfig
    found: Checked
    run: RunFolder
    view: ProgressView
    lease: Lease
    board: Any
    board_name: str
    started: float = field(default_factory=time.time)
    events: list[dict[str, Any]] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)
    _saved: float = 0.0

    @property
    def epoch(self) -> int:
        return self.lease.epoch

    def require_lease(self, *, look: bool = True) -> None:
        """Raise RunFailed if another driver took the run over. Without `look`, only if a beat has found that out."""
        try:
            if look:
                self.lease.fence.check()
            else:
                self.lease.check()
        except LeaseLost as lost:
            raise RunFailed(str(lost)) from None

    def drain(self) -> list[dict[str, Any]]:
        """Take in, show and keep what the workers reported since the last call."""
        import ray

        news = ray.get(self.board.drain.remote())
        for event in news:
            self.view.event(event)
        self.events += news
        if time.time() - self._saved > _SAVE_EVENTS_S:
            self.save_events()
        return news

    def save_events(self) -> None:
        """Keep the events of this attempt in the run folder. Raises RunFailed if it was taken over."""
        self.require_lease()
        lines = "".join(json.dumps(e, default=str) + "\n" for e in self.events)
        self.run.storage.write(f"events/{self.epoch:04d}.jsonl", lines.encode())
        wall = json.dumps({"started": self.started, "wall_s": time.time() - self.started}).encode()
        self.run.storage.write(f"events/{self.epoch:04d}.wall.json", wall)
        self._saved = time.time()

    def timing(self) -> dict[str, float]:
        """Seconds of the run's parts over all attempts."""
        self.save_events()
        keys = self.run.storage.keys("events")
        events = (
            json.loads(line) for k in keys if k.endswith(".jsonl") for line in self.run.storage.read(k).splitlines()
        )
        wall = sum(self.run.read_json(k)["wall_s"] for k in keys if k.endswith(".wall.json"))
        return timing(events, wall)


@contextmanager
def attempt(file: ConfigFile, view: ProgressView) -> Iterator[Attempt]:
    """Check everything, take the run's lease, open its folder, connect to Ray; then the block.

    Raises ValueError while another driver holds the run.
    """
    found = check(file)
    config = file.located()
    run = RunFolder.of(config)
    run.refuse_other(file.config)
    with Lease.take(run.storage, f"run {config.name!r} at {run.uri}", view.say) as lease:
        run.open(file)
        view.say(f"run {config.name} at {run.uri}, attempt {lease.epoch}")
        with ray_session(config.cluster, f"stillhouse-{config.name}", CODE):
            from workers.progress import ProgressBoard

            board_name = f"board-{config.name}-{lease.epoch}"
            where = beside_driver()
            board = ProgressBoard.options(name=board_name, scheduling_strategy=where).remote()  # type: ignore[attr-defined]
            yield Attempt(config, found, run, view, lease, board, board_name)
