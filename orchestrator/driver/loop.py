"""Teachers and students at work at the same time, until both are over."""

from __future__ import annotations

import time
from contextlib import nullcontext

from orchestrator.driver.captures import Captures, CaptureStatus
from orchestrator.driver.session import Session
from orchestrator.driver.trainings import Trainings

_TICK_S = 0.25
_LAST_EVENTS_S = 5.0
"""Seconds to wait for the last events, which are only shown."""


def watch(session: Session, captures: Captures | None, trainings: Trainings | None) -> None:
    """Act on what workers send until both are over.

    The least replicas are placed before students start, so that the two can't hold what the other waits for; more
    replicas take what students leave. Raises RunFailed with the first cause of a teacher that stopped, and if the run
    was taken over: such a driver writes nothing more.
    """
    with session.monitors.also(trainings.turns) if trainings is not None else nullcontext():
        _watch(session, captures, trainings)


def _watch(session: Session, captures: Captures | None, trainings: Trainings | None) -> None:
    while True:
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
