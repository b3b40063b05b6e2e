"""One driver's attempt at a run: checks, lease, run folder, Ray, and what comes in from the workers."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cluster.inventory import cluster_nodes
from cluster.lease import Lease, StopRequest
from cluster.placement import beside_driver
from cluster.session import ray_session
from cluster.stopping import ENDING_S, take_over
from orchestrator.config.loading import ConfigFile
from orchestrator.config.schema import RunConfig
from orchestrator.driver.interrupts import Interrupts, interrupts
from orchestrator.driver.nodes import Nodes
from orchestrator.driver.summary import Summary
from orchestrator.monitors.base import Monitor, Monitors
from orchestrator.monitors.jsonl import JsonlMonitor
from orchestrator.preflight.checks import Checked, check
from orchestrator.preflight.place import Needs, students_at_work
from orchestrator.preflight.planning.students import check_students_fit
from orchestrator.render.sentences import rejected_rows
from orchestrator.reporting.timing import Worked, timing_of
from orchestrator.runs.context import RunContext
from orchestrator.runs.errors import RunFailed, Stopped
from orchestrator.runs.folder import RunFolder
from orchestrator.trackers.monitor import tracked, trackers_of
from orchestrator.trackers.prometheus import watched_by_prometheus
from workers.channels.events import Message, Outcome, RunEnded, RunStarted
from workers.channels.messages import ControlMessage
from workers.evaluation.harness.asked import freeze_harness
from workers.evaluation.tasks.asked import freeze_items
from workers.layout import CONFIG, EventsLayout

CODE = Path(__file__).resolve().parents[2]
_SAVE_WALL_S = 5.0


@dataclass
class Session:
    """An attempt that holds the run's lease."""

    ctx: RunContext
    found: Checked
    monitors: Monitors
    board: Any = None
    """The actor to which workers tell what happens; None where there is no Ray."""
    nodes: Nodes | None = None
    """Notes which nodes the cluster has; None where there is no Ray."""
    interrupts: Interrupts = field(default_factory=Interrupts)
    """Signals that ask this driver to stop."""
    failures: dict[str, str] = field(default_factory=dict)
    """Specialists that failed, with the first cause."""
    summary: Summary | None = None
    """What is counted of this attempt."""
    started: float = field(default_factory=time.time)
    _saved: float = 0.0
    _events: Any = None
    """The call for events that the board has not answered yet."""

    def poll(self, *, patience_s: float = 0.0) -> list[ControlMessage]:
        """Show what the workers told since the last call; returns the messages that steer the run.

        A flood of events holds up no message: they are shown as they come, with so much patience. Raises RunFailed if
        a beat has found that the run was taken over, and Stopped for what no signal has told (`Interrupts.check`).
        """
        import ray

        self.ctx.require_lease(look=False)
        self.interrupts.check()
        messages = ray.get(self.board.messages.remote())
        if self._events is None:
            self._events = self.board.events.remote()
        if ray.wait([self._events], timeout=patience_s)[0]:
            for event in ray.get(self._events):
                self.monitors.take(event)
            self._events = None
        if self.nodes is not None:
            self.nodes.note()
        self.monitors.flush()
        if time.time() - self._saved > _SAVE_WALL_S:
            self.save()
        return messages

    def ask_to_leave(self) -> None:
        """Ask all workers to leave."""
        import ray

        ray.get(self.board.ask_to_leave.remote())

    def asked_to_stop(self, request: StopRequest) -> None:
        """Somebody asks through the storage, as the lease's thread has found."""
        self.interrupts.request(str(request), now=request.now)

    def save(self) -> None:
        """Note how long this attempt has worked, and how far it is. Raises RunFailed if the run was taken over."""
        self.ctx.require_lease()
        wall: dict[str, Any] = {"started": self.started, "wall_s": time.time() - self.started}
        if self.summary is not None:
            wall |= self.summary.to_dict(self.ctx.config)
        self.ctx.run.storage.write(EventsLayout(self.ctx.epoch).wall, json.dumps(wall).encode())
        self._saved = time.time()

    def end(self, outcome: Outcome, cause: str = "") -> None:
        """Tell how this attempt ends. Of a run that was taken over nothing is written."""
        self.ctx.report(RunEnded(outcome=outcome, cause=cause, failures=self.failures))
        with suppress(OSError, RunFailed):  # neither must take the place of what ends it
            self.save()

    def worked(self) -> Worked:
        """Seconds of the run's parts and of students, over all attempts. Raises RunFailed if the run was taken over."""
        self.save()
        if self.nodes is not None:
            self.nodes.note(now=True)
        self.monitors.flush(force=True)
        return timing_of(self.ctx.run.storage, lambda why: self.ctx.say(f"not counted in the report's seconds: {why}"))


@contextmanager
def open_leased(
    file: ConfigFile, monitors: Sequence[Monitor], needs: Needs | None = None, takes_over: bool = False
) -> Iterator[Session]:
    """Check everything, take the run's lease and open its folder; then the block. `needs`: what it starts on Ray.

    Raises ValueError for a wrong request, and while another driver holds the run; where it `takes_over`, that one is
    asked to leave, once all checks have passed, and waited for.
    """
    found, config = check(file, frozen_will_do=True, needs=needs, reading="most"), file.located()
    run = RunFolder.of(config)
    with Monitors(monitors) as watching:
        say = lambda text: watching.take(Message(text=text))  # noqa: E731
        with _lease(run, config, say, takes_over) as lease:
            ctx = RunContext(run, run.open(file).located(), lease, watching.take)
            summary = Summary()
            session = Session(ctx, found, watching, summary=summary)
            log = JsonlMonitor(run.storage, lease.epoch, ctx.holds_lease)
            with (
                watching.also(summary),
                watching.also(log),
                tracked(trackers_of(ctx), watching),
                _told_how_it_ends(session),
                interrupts(session.interrupts),
            ):
                lease.when_asked_to_stop(session.asked_to_stop)
                ctx.report(RunStarted(run=config.name, storage=run.uri, attempt=lease.epoch))
                ctx.say(f"run {config.name} at {run.uri}, attempt {lease.epoch}")
                for why in found.left_alone:
                    ctx.say(why)
                try:
                    if needs is not None and needs.evaluator:
                        _freeze_tasks(ctx, found)
                    yield session
                except ValueError:
                    if ctx.holds_lease():
                        run.withdraw()
                    raise


def _lease(run: RunFolder, config: RunConfig, say: Callable[[str], None], takes_over: bool) -> Lease:
    what = f"run {config.name!r} at {run.uri}"
    if not takes_over:
        return Lease.take(run.storage, what, say)

    def patience_s() -> float:
        begun = run.config() if run.storage.exists(CONFIG) else config
        return begun.cluster.leave_s + ENDING_S

    return take_over(run.storage, what, say, patience_s)


@contextmanager
def _told_how_it_ends(session: Session) -> Iterator[None]:
    try:
        yield
    except BaseException as error:
        stopped = isinstance(error, KeyboardInterrupt | SystemExit | Stopped)
        said = " ".join(str(error).split())
        kind = "" if isinstance(error, ValueError | RunFailed) else f"{type(error).__name__}: "
        if isinstance(error, Stopped) and error.by:
            session.ctx.say(f"stopped, as asked by {error.by}")
        session.end("stopped" if stopped else "failed", "" if stopped else f"{kind}{said}")
        raise
    session.end("done")


def _freeze_tasks(ctx: RunContext, found: Checked) -> None:
    """Keep the questions that models will be asked in the run."""
    tasks = found.take_tasks()
    for task in tasks:
        reasons = Counter(row.reason for row in task.rejected)
        ctx.say(f"task {task.name}: {len(task.items)} items; {rejected_rows(reasons)}")
    if tasks:
        freeze_items(ctx.run.storage, [unit for task in tasks for unit in task.units])
    if found.harness:
        freeze_harness(ctx.run.storage, found.harness)


def _check_gpus(config: RunConfig, needs: Needs, found: Checked) -> None:
    """Raise ValueError for a student that is to be trained now and that no GPU of the nodes that are there holds."""
    teacher, at_work = found.teacher_folders[config.first_teacher()], students_at_work(config, needs)
    check_students_fit(config, at_work, teacher, found.longest, cluster_nodes())


@contextmanager
def open_session(
    file: ConfigFile, monitors: Sequence[Monitor], needs: Needs, takes_over: bool = False
) -> Iterator[Session]:
    """As `open_leased`, and connected to Ray."""
    with (
        open_leased(file, monitors, needs, takes_over) as session,
        ray_session(session.ctx.config.cluster, f"stillhouse-{file.config.name}", CODE),
    ):
        from workers.channels.board import Board

        name, where = f"board-{file.config.name}-{session.ctx.epoch}", beside_driver()
        session.board = Board.options(name=name, scheduling_strategy=where).remote()  # type: ignore[attr-defined]
        session.ctx = replace(session.ctx, board=name)
        session.nodes = Nodes(session.ctx)
        session.nodes.note()
        _check_gpus(session.ctx.config, needs, session.found)
        # Once more: Ray has put a handler of its own in the place.
        with watched_by_prometheus(session.ctx.config, session.monitors), interrupts(session.interrupts):
            yield session
