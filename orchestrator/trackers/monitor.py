"""The driver's end of a tracker: a process that is begun, listened to, begun anew where it fails, and ended in time."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import IO, Any

from cluster.storage import Storage
from orchestrator.config.trackers import TrackerConfig
from orchestrator.monitors.base import Monitors
from orchestrator.runs.context import RunContext
from orchestrator.trackers.sending import Sending
from workers.channels.events import Event

PROGRAM = (sys.executable, "-P", "-m", "orchestrator.trackers.process")

_AGAIN_S = (5.0, 300.0)
"""Seconds before a tracker that failed is begun anew: at first, and at most, where it fails again and again."""

_BROKEN_OFF_S = 5.0
"""Seconds that a tracker has at most where the run ends in an error: a person waits, and another attempt may follow."""

_LAST_WORDS_S = 2.0
"""Seconds to hear what a process that has ended told last."""

_KEEP = 1000
"""What a process told and nobody has looked at yet; older lines are of no use any more."""

_MOST_CAUSES = 3
"""Different causes that are told of a tracker that fails; more of them would hide what else the run says."""


class TrackerMonitor:
    """A monitor that takes no events itself: its process reads them from the run's log. Nothing it does waits for that
    process but `finish`, and that only so long."""

    def __init__(
        self,
        *,
        name: str,
        config: TrackerConfig,
        run: str,
        storage: Storage,
        attempt: int,
        say: Callable[[str], None],
        program: Sequence[str] = PROGRAM,
    ) -> None:
        self._name, self._config, self._run, self._storage, self._say = name, config, run, storage, say
        settings = config.model_dump_json()
        self._command = [*program, run, storage.uri, str(attempt), name, settings]
        self._process: subprocess.Popen[bytes] | None = None
        self._listener: threading.Thread | None = None
        self._told: deque[dict[str, Any]] = deque(maxlen=_KEEP)
        self._heard = self._again = 0.0
        self._wait_s = _AGAIN_S[0]
        self._cause, self._causes, self._done = "", list[str](), False

    @property
    def finish_s(self) -> float:
        """Seconds that it has at the end."""
        return self._config.finish_s

    def start(self) -> None:
        """Begin the process."""
        self._heard, self._cause = time.monotonic(), ""
        try:
            # Ctrl-C is for the driver, which then ends the process in time: it gets a session of its own.
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            )
        except OSError as error:
            self._fail(str(error))
            return
        self._listener = threading.Thread(target=_listen, args=(self._process.stdout, self._told), daemon=True)
        self._listener.start()

    def take(self, event: Event) -> None:
        """Nothing to do: it is in the run's log."""

    def flush(self, *, force: bool = False) -> None:
        """Look how the process does; begin it anew where it ended or hangs, and it is time to."""
        self._take_in()
        if self._process is None:
            if time.monotonic() >= self._again:
                self.start()
            return
        ended = self._process.poll() is not None
        silent = time.monotonic() - self._heard
        if ended or silent > self._config.stalled_s:
            code = self._process.poll()
            self._end()
            self._take_in()
            how = f"its process ended with code {code}" if ended else f"it did not answer for {silent:.0f} s"
            self._fail(self._cause or how)

    def close_input(self) -> None:
        """Let the process know that no event comes any more. One that had failed gets a last try."""
        self._take_in()
        if self._process is None:
            self.start()
        if self._process is not None and self._process.stdin is not None:
            with suppress(BrokenPipeError):
                self._process.stdin.close()

    def finish(self, deadline: float) -> None:
        """Wait until all is sent, or it is `deadline` by the monotonic clock; then say what is not."""
        code = None
        if self._process is not None:
            with suppress(subprocess.TimeoutExpired):
                code = self._process.wait(max(deadline - time.monotonic(), 0.0))
        self._end()
        self._take_in()
        if not self._done:
            late = "it was not done in time" if code is None else f"its process ended with code {code}"
            self._say_unsent(self._cause or (f"{late}; before that: {self._causes[-1]}" if self._causes else late))

    def stop(self) -> None:
        """End the process, if it is still there."""
        self._end()

    def _take_in(self) -> None:
        while self._told:
            told = self._told.popleft()
            self._heard = time.monotonic()
            self._cause = told.get("error", self._cause)
            self._done |= told.get("done", False)
            if "sent" in told:
                self._wait_s = _AGAIN_S[0]

    def _fail(self, cause: str) -> None:
        """Say it once, and wait longer each time."""
        cause = " ".join(cause.split())
        self._again = time.monotonic() + self._wait_s
        self._wait_s = min(2 * self._wait_s, _AGAIN_S[1])
        if cause not in self._causes and len(self._causes) < _MOST_CAUSES:
            self._causes.append(cause)
            self._say(f"tracker {self._name} failed: {cause}; the run goes on, and it is tried again")

    def _say_unsent(self, cause: str) -> None:
        try:
            unsent = Sending(self._storage, self._run, self._name, self._config).unsent()
        except OSError as error:
            self._say(f"tracker {self._name}: {cause}; how much it did not send is not known: {error}")
            return
        what = f"{_named(unsent)} not sent" if unsent else "the end of the run is not confirmed"
        again = f"; they stay in the run: stillhouse track {self._storage.uri} --to {self._name}" if unsent else ""
        self._say(f"tracker {self._name}: {what} ({' '.join(cause.split())}){again}")

    def _end(self) -> None:
        """End the process and what it has begun."""
        if (process := self._process) is None:
            return
        self._process = None
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        if process.stdin is not None:
            with suppress(BrokenPipeError):
                process.stdin.close()
        if self._listener is not None:
            self._listener.join(_LAST_WORDS_S)


def _listen(pipe: IO[bytes], told: deque[dict[str, Any]]) -> None:
    """Take in what a process tells, in a thread of its own, until it ends."""
    with pipe, suppress(ValueError):  # half a line of a process that was killed
        for line in pipe:
            told.append(json.loads(line))


def _named(unsent: Counter[str]) -> str:
    """How many points of whom, in words."""
    each = ", ".join(f"{count:,} of {student or 'the teachers'}" for student, count in sorted(unsent.items()))
    total = sum(unsent.values())
    return f"{total:,} point{'s' * (total != 1)} ({each})"


def trackers_of(ctx: RunContext) -> list[TrackerMonitor]:
    """The trackers of a run that have a process of their own."""
    return [
        TrackerMonitor(
            name=name,
            config=config,
            run=ctx.config.name,
            storage=ctx.run.storage,
            attempt=ctx.epoch,
            say=ctx.say,
        )
        for name, config in ctx.config.trackers.named()
        if isinstance(config, TrackerConfig)
    ]


@contextmanager
def tracked(trackers: Sequence[TrackerMonitor], watching: Monitors) -> Iterator[None]:
    """Trackers for the length of a block, inside that of the run's log, into which the last events are brought first.

    At the end they have their time all at once, and little of it where the block ends in an error.
    """
    with ExitStack() as stack:
        for tracker in trackers:
            stack.enter_context(watching.also(tracker))
        most = _BROKEN_OFF_S
        try:
            yield
            most = float("inf")
        finally:
            if trackers:
                watching.flush(force=True)
            for tracker in trackers:
                tracker.close_input()
            began = time.monotonic()
            for tracker in trackers:
                tracker.finish(began + min(tracker.finish_s, most))
