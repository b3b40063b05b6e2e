"""Teachers and students at work at the same time, until both are over."""

from __future__ import annotations

import time
from contextlib import nullcontext
from signal import Signals
from typing import NoReturn

from orchestrator.driver.captures import Captures, CaptureStatus
from orchestrator.driver.session import Session
from orchestrator.driver.trainings import Trainings
from orchestrator.runs.errors import Stopped

_TICK_S = 0.25
_LAST_EVENTS_S = 5.0
"""Seconds to wait for the last events, which are only shown."""


def watch(session: Session, captures: Captures | None, trainings: Trainings | None) -> None:
    """Act on what workers send until both are over.

    The least replicas are placed before students start, so that the two can't hold what the other waits for; more
    replicas take what students leave. Raises RunFailed with the first cause of a teacher that stopped, and if the run
    was taken over: such a driver writes nothing more. Raises Stopped if a signal asked for the end, or somebody
    through the storage.
    """
    with session.interrupts.patient(), session.monitors.also(trainings.turns) if trainings else nullcontext():
        _watch(session, captures, trainings)


def _leave(session: Session, trainings: Trainings | None, asked: Signals) -> NoReturn:
    """Let students write a last checkpoint, then raise Stopped. What teachers have not committed is made again."""
    who = f"asked to stop by {session.interrupts.by}" if session.interrupts.by else asked.name
    session.ctx.say(f"{who}: students write their checkpoints, then this stops; once more, and it stops at once")
    session.ask_to_leave()
    began, patience_s = time.monotonic(), session.ctx.config.cluster.leave_s
    while trainings is not None and (waited := time.monotonic() - began) < patience_s:
        left = trainings.leaving(trainings.finished())
        if not left or (waited > _LAST_EVENTS_S and not trainings.turns.stepping & set(left)):
            break
        for message in session.poll():
            trainings.take(message)
        time.sleep(_TICK_S)
    session.poll(patience_s=_LAST_EVENTS_S)
    raise Stopped(asked, session.interrupts.by)


def _watch(session: Session, captures: Captures | None, trainings: Trainings | None) -> None:
    while True:
        if (asked := session.interrupts.asked) is not None:
            _leave(session, trainings, asked)
        # Who has ended is asked first: a sender waits for its messages, so the last ones of those have arrived then.
        passes = captures.finished() if captures is not None else []
        groups = trainings.finished() if trainings is not None else []
        for message in session.poll():
            if captures is not None:
                captures.take(message)
            if trainings is not None:
                trainings.take(message)
        capture = captures.poll(passes) if captures is not None else CaptureStatus(placed=True, over=True)
        if trainings is not None and not trainings.started and capture.placed:
            trainings.start()
        training = trainings.poll(groups, captured=capture.over) if trainings is not None else None
        if captures is not None and capture.placed and (training is None or training.settled):
            captures.grow()
        if capture.over and (training is None or training.over):
            session.poll(patience_s=_LAST_EVENTS_S)
            return
        time.sleep(_TICK_S)
