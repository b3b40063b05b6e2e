"""What steers a run: messages from workers to the driver. None is ever dropped; a sender waits until the driver has it.

They are few: places taken, units captured, damage found, what stops a run. What is only shown is an event (events.py).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ReplicaPlaced:
    """A replica of a teacher has its place."""

    teacher: str
    count: int
    """Replicas of this pass that have one now."""


@dataclass(frozen=True)
class ReplicaLost:
    """The process that leads a replica died and was started again."""

    teacher: str
    note: str


@dataclass(frozen=True)
class CaptureStopped:
    """A teacher cannot go on; `cause` is the first one."""

    teacher: str
    cause: str


@dataclass(frozen=True)
class UnitCaptured:
    """A replica has finished a unit: captured it, or found it committed."""

    teacher: str
    split: str
    unit: int


@dataclass(frozen=True)
class DamageFound:
    """A student found a unit of the training store damaged, and waits until it is recomputed."""

    student: str
    unit: int


@dataclass(frozen=True)
class StudentPlaced:
    """A student's workers have their places."""

    student: str
    place: str = ""
    """Id of the placement group that they are in, as hex digits."""


@dataclass(frozen=True)
class StudentRestarted:
    """A student's workers were lost, and others look for places."""

    student: str


ControlMessage = (
    ReplicaPlaced | ReplicaLost | CaptureStopped | UnitCaptured | DamageFound | StudentPlaced | StudentRestarted
)
