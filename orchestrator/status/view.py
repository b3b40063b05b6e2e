"""How a run stands, from its folder alone: who drives it, what it told, what it took. Nothing of it is changed."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any, Literal

from cluster.lease import Attempt, Timing, attempts
from cluster.storage import Storage
from orchestrator.monitors.progress import Part, Progress
from orchestrator.reporting.money.held import Held
from orchestrator.reporting.money.spent import Spent, spent_of
from orchestrator.runs.folder import RunFolder
from orchestrator.status.estimate import seconds_left
from orchestrator.status.following import EventLog
from workers.channels.events import Event, Outcome
from workers.layout import REPORT_JSON

State = Literal["running", "done", "failed", "stopped", "silent", "begun"]
"""`silent`: its driver is gone, or says nothing, and the run is not done. `stopped`: by a person, or with no word of
how it ended. `begun`: no driver is known of."""

_LAST = 4
"""Attempts that are looked at anew; those before them have ended."""

_SKEW_S = 3600.0
"""Silence up to which it may be that two clocks differ, so that another sign of life is waited for."""


class RunView:
    """A run as it is seen from outside; `refresh` reads what is new."""

    def __init__(self, run: RunFolder, timing: Timing = Timing(), skipped: Callable[[str], None] = lambda w: None):
        """Raises ValueError if there is no run."""
        self.run, self.config = run, run.config()
        self.progress, self.held = Progress(), Held()
        self.attempts: list[Attempt] = []
        self.last_event: float | None = None
        self._timing, self._log = timing, EventLog(run.storage, skipped)
        self._seen = (0, -1)
        """Attempt and counter of the last beat that was read."""
        self._moved_at = -math.inf
        """When that counter moved while this looked on, by this process's clock: then its driver lives, whatever its
        own clock says."""

    def refresh(self, told: Callable[[Event], None] = lambda event: None) -> None:
        """Take in what is new; `told` is called with every new event, when it was taken in."""
        self._look_at_leases()
        for event in self._log.new(self.attempts[-1].number if self.attempts else 0):
            self.progress.take(event)
            self.held.take(event)
            self.last_event = max(event.time, self.last_event or 0.0)
            told(event)
        if not self.progress.run:  # a log without its first event
            self.progress.run, self.progress.storage = self.config.name, self.run.uri
            if self.attempts and self.progress.began is not None:
                self.progress.began = max(self.progress.began, self.attempts[-1].holder.since)

    def _look_at_leases(self) -> None:
        known = {attempt.number: attempt for attempt in self.attempts}
        known |= {a.number: a for a in attempts(self.run.storage, last=_LAST if known else None)}
        self.attempts = [known[number] for number in sorted(known)]
        if self.attempts:
            last = self.attempts[-1]
            seen = last.number, last.beat.counter
            if seen[0] != self._seen[0]:
                self._moved_at = -math.inf
                self.config = self.run.config()  # each attempt may change some settings
            elif seen[1] != self._seen[1]:
                self._moved_at = time.monotonic()
            self._seen = seen

    def make_sure(self, wait: Callable[[float], None] = time.sleep) -> None:
        """Where the driver seems silent, and that may be a clock's fault, look for another sign of life of it."""
        if self._sign(time.time()) != "silent":
            return
        if time.time() - self.attempts[-1].beat.time > self._timing.stale_s + _SKEW_S:
            return
        for _ in range(3):
            wait(self._timing.watch_s / 3)
            self.refresh()
            if self._sign(time.time()) != "silent":
                return

    def _sign(self, now: float) -> str:
        sign = self.attempts[-1].sign(now, self._timing) if self.attempts else "ended"
        moves = time.monotonic() - self._moved_at < self._timing.stale_s
        return "alive" if sign == "silent" and moves else sign

    def state(self, now: float) -> State:
        """How it stands at a time of this machine's clock."""
        if not self.attempts:
            return "done" if self.run.storage.exists(REPORT_JSON) else "begun"
        sign, ended = self._sign(now), self.progress.ended
        if self.progress.attempt != self.attempts[-1].number:
            ended = None  # the last attempt has not told anything yet
        outcome = ended.outcome if ended is not None else None
        return state_of(sign, outcome, self.failures(), self.run.storage)

    def failures(self) -> dict[str, str]:
        """What failed, each with its first cause in one line."""
        found, ended = self.progress.failures, self.progress.ended
        if ended is not None and ended.outcome == "failed":
            found["run"] = ended.cause
        return {name: " ".join(why.split()) for name, why in found.items()}

    def exit_code(self, now: float) -> int:
        """1 if it failed, or its driver is gone while it is not done."""
        return int(self.state(now) in ("failed", "silent"))

    def spent(self) -> Spent:
        """What it took so far."""
        return spent_of(self.held, self.config)

    def eta_s(self, now: float) -> float | None:
        """Seconds until its present work is done, if it is at work."""
        if self.state(now) != "running" or (left := seconds_left(self.progress)) is None:
            return None
        return max(left - max(now - (self.last_event or now), 0.0), 0.0)

    @property
    def started(self) -> float | None:
        """When it was begun."""
        return self.attempts[0].holder.since if self.attempts else self.progress.began

    @property
    def last_sign(self) -> float | None:
        """When it was last heard of, by its driver's clock."""
        last = self.attempts[-1] if self.attempts else None
        known = [last.ended or last.beat.time] if last is not None else []
        return max([*known, self.last_event or 0.0]) or None

    def to_dict(self, now: float) -> dict[str, Any]:
        """All of it as JSON values."""
        progress, spent, state = self.progress, asdict(self.spent()), self.state(now)
        teachers = {name: counts for name, counts in progress.pool.teachers.items() if counts.planned or counts.units}
        students = progress.students
        return {
            "run": self.config.name,
            "storage": self.run.uri,
            "state": state,
            "stage": progress.stage,
            "attempt": self.attempts[-1].number if self.attempts else 0,
            "attempts": [self.attempt(i, now) for i in range(len(self.attempts))],
            "driver": self.attempt(-1, now) if self.attempts else None,
            "started": self.started,
            "last_sign": self.last_sign,
            "nodes": progress.members.roles if state == "running" else {},
            "waiting_for_places": [one._asdict() for one in progress.members.waiting] if state == "running" else [],
            "capture": _part(progress.teacher, state),
            "teachers": {
                name: {
                    "replicas": len(counts.replicas) if state == "running" else 0,
                    "units": counts.units,
                    "planned": counts.planned,
                    "tokens": counts.tokens,
                    "tokens_per_s": counts.rate.per_second if state == "running" else None,
                }
                for name, counts in teachers.items()
            },
            "students": {name: _student(part, state) for name, part in students.items()},
            "evaluation": _part(progress.evaluation, state) if progress.evaluation.total else None,
            "tokens": {
                "captured": progress.pool.targets,
                "trained": {name: part.done for name, part in students.items()},
            },
            "rates": {
                "teacher": progress.teacher.targets.per_second if state == "running" else None,
                "students": {name: _rate(part, state) for name, part in students.items()},
            },
            "waiting": {n: {"s": p.waits.seconds, "share": p.waits.share} for n, p in students.items()},
            "failures": self.failures(),
            "cost": {**spent.pop("total"), **spent},
            "eta_s": self.eta_s(now),
        }

    def attempt(self, place: int, now: float) -> dict[str, Any]:
        """One attempt by its place among `attempts`: who drove it, and how it stands."""
        attempt = self.attempts[place]
        is_last = attempt is self.attempts[-1]
        sign = self._sign(now) if is_last else "ended" if attempt.ended is not None else "taken over"
        return {
            "number": attempt.number,
            "host": attempt.holder.host,
            "pid": attempt.holder.pid,
            "since": attempt.holder.since,
            "state": sign,
            "silent_s": max(now - attempt.beat.time, 0.0) if sign in ("silent", "gone", "alive") else None,
            "ended": attempt.ended,
            "asked_to_stop": asdict(attempt.asked) if attempt.asked is not None else None,
        }


def state_of(sign: str, outcome: Outcome | None, failures: Mapping[str, str], storage: Storage) -> State:
    """How a run stands of which an attempt was made: by the last one's sign of life, how it told that it ended, what
    failed and, where it told nothing, whether there is a report."""
    if sign == "alive":
        return "running"
    if outcome is not None:
        return "failed" if outcome == "done" and failures else outcome
    if sign != "ended":
        return "silent"
    if failures:
        return "failed"
    return "done" if storage.exists(REPORT_JSON) else "stopped"


def _rate(part: Part, state: State) -> float | None:
    return part.pace.per_second if state == "running" and part.state == "working" else None


def _student(part: Part, state: State) -> dict[str, Any]:
    return {
        "state": part.state,
        "tokens": part.done,
        "budget": part.total,
        "loss": part.loss,
        "tokens_per_s": _rate(part, state),
        "waited_s": part.waits.seconds,
        "waiting_share": part.waits.share,
        "eta_s": part.left_s if state == "running" else None,
        "note": part.note,
    }


def _part(part: Part, state: State) -> dict[str, Any]:
    return {
        "state": part.state,
        "done": part.done,
        "total": part.total,
        "eta_s": part.left_s if state == "running" else None,
        "note": part.note,
    }
