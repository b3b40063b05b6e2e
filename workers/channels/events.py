"""What a run tells while it works: typed events, in one schema with one version.

Events are telemetry. Losing any of them, or all, changes what a person sees and the report's seconds, and nothing else;
what steers a run travels by messages.py. A changed or renamed field raises SCHEMA_VERSION; a new kind, or a new field
with a default, does not: a program of before passes over the segments that have one.
"""

from __future__ import annotations

import time as clock
from collections.abc import Iterable, Iterator
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

SCHEMA_VERSION = 1


class _Event(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    time: float = Field(default_factory=clock.time)
    """Seconds since 1970, by the clock of the process that tells."""


class Message(_Event):
    """Something that a person should read."""

    kind: Literal["message"] = "message"
    text: str
    student: str = ""
    """The student that it is about, if any."""
    teacher: str = ""
    """The teacher that it is about, if any."""


class RunStarted(_Event):
    """An attempt at a run begins."""

    kind: Literal["run_started"] = "run_started"
    run: str
    storage: str
    """Where the run's folder lies."""
    attempt: int


Outcome = Literal["done", "failed", "stopped"]


class RunEnded(_Event):
    """The attempt at a run ends; one that is killed does not say so."""

    kind: Literal["run_ended"] = "run_ended"
    outcome: Outcome
    """`done`: all that was asked was tried; `stopped`: by a person or a scheduler."""
    cause: str = ""
    """What it failed of, in one line."""
    failures: dict[str, str] = Field(default_factory=dict)
    """Students and exports that failed, with the first cause of each."""


Stage = Literal["prepare", "capture", "train", "capture and train", "evaluate", "export"]


class StageStarted(_Event):
    """The run comes to its next stage."""

    kind: Literal["stage_started"] = "stage_started"
    stage: Stage


class NodeJoined(_Event):
    """A node is in the cluster. Told of each when it is first seen in an attempt; it may have been there before."""

    kind: Literal["node_joined"] = "node_joined"
    node: str
    """Ray's id of it."""
    role: str
    """What it is for: its label `stillhouse-role`, or else what it is."""
    joined: float
    """When Ray took it in, by the clock of the cluster's head."""
    address: str = ""
    labels: dict[str, str] = Field(default_factory=dict)
    resources: dict[str, float] = Field(default_factory=dict)
    """Its totals, by Ray's names."""


class NodeLeft(_Event):
    """A node is in the cluster no more."""

    kind: Literal["node_left"] = "node_left"
    node: str
    left: float
    """When Ray noticed, by the clock of the cluster's head."""
    reason: str = ""
    """In Ray's words."""


class PlaceWanted(_Event):
    """A group of processes looks for its place from now on. That is the demand that an autoscaler sees."""

    kind: Literal["place_wanted"] = "place_wanted"
    place: str
    """Whose: the id of a replica, or the name of a student."""
    teacher: str = ""
    student: str = ""
    """Which of both it is of."""
    processes: int
    resources: dict[str, float] = Field(default_factory=dict)
    """Of each process, by Ray's names."""
    labels: dict[str, str] = Field(default_factory=dict)
    """That its nodes must have."""


class PlaceEnded(_Event):
    """A group of processes looks for its place no more."""

    kind: Literal["place_ended"] = "place_ended"
    place: str
    teacher: str = ""
    student: str = ""
    found: bool
    """Whether it has one; else it is not needed any more, or has given up."""


class UnitsPlanned(_Event):
    """How many units the run has when this attempt comes to its capture."""

    kind: Literal["units_planned"] = "units_planned"
    units: int
    committed: int
    """Of them, those that are captured and in order."""


class CaptureStarted(_Event):
    """A teacher's pass over units begins."""

    kind: Literal["capture_started"] = "capture_started"
    teacher: str
    units: int
    repairs: int
    """Units of these that are recomputed, as they were damaged."""
    again: bool = False
    """Whether they are what a pass has left whose process died."""


class ReplicaLoading(_Event):
    """A replica has its place, and begins to load its model."""

    kind: Literal["replica_loading"] = "replica_loading"
    teacher: str
    replica: str


class ReplicaReady(_Event):
    """A replica has loaded its model."""

    kind: Literal["replica_ready"] = "replica_ready"
    teacher: str
    weights_held: list[int]
    """Numbers of weights, by rank."""
    replica: str = ""
    """Which one."""


class ReplicaAtWork(_Event):
    """How many texts a replica has in its slots, told when that changed much, and once a minute."""

    kind: Literal["replica_at_work"] = "replica_at_work"
    teacher: str
    replica: str
    texts: int
    slots: int


class UnitCommitted(_Event):
    """A unit was made; `won` is False where another writer had committed it meanwhile."""

    kind: Literal["unit_committed"] = "unit_committed"
    split: str
    unit: int
    won: bool
    started: float
    finished: float
    rows: int
    tokens: int
    targets: int
    bytes: int
    rejected: int
    """Texts that were not kept."""
    revision: int = 0
    content_changed: bool = False
    """Whether a repair brought other contents than before."""
    teacher: str = ""
    replica: str = ""
    """Whose it is; empty in logs of earlier versions, as is what follows."""
    domains: tuple[str, ...] = ()
    """What its prompts are about."""


class UnitDamaged(_Event):
    """A student found a unit damaged."""

    kind: Literal["unit_damaged"] = "unit_damaged"
    student: str
    unit: int
    reason: str


class StudentState(_Event):
    """A student is to be trained and has no place yet; begins to load libraries and weights, in its place; trains; is
    done; or failed."""

    kind: Literal["student_state"] = "student_state"
    student: str
    state: Literal["queued", "loading", "training", "done", "failed"]
    step: int = 0
    tokens: int = 0
    budget: int = 0
    note: str = ""
    workers: int = 0
    """Processes that train it; 0 where that is not told."""


class StudentStep(_Event):
    """Where a student's training stands, told a few times a second at most."""

    kind: Literal["student_step"] = "student_step"
    student: str
    step: int
    tokens: int
    """Target tokens trained on."""
    budget: int
    loss: float
    grad_norm: float
    lr: float
    waited: float
    """Seconds that the last step waited for its texts."""
    seconds: list[int]
    """Seconds of the clock in which a step ran, since the last time."""
    waited_s: float | None = None
    """Seconds that all its steps have waited; None in logs of earlier versions."""


class FirstKlMeasured(_Event):
    """How far a student is from its teacher before it has learned anything."""

    kind: Literal["first_kl_measured"] = "first_kl_measured"
    student: str
    kl: float
    """KL(teacher ‖ student) of its first batch, nats a target token."""
    tokens: int
    """Target tokens of that batch."""


class StudentWaiting(_Event):
    """A student waits for a unit that is not committed yet, or for a damaged one to be recomputed."""

    kind: Literal["student_waiting"] = "student_waiting"
    student: str
    unit: int
    waited: float
    seconds: list[int]
    """As in StudentStep."""
    damage: str = ""
    """What is wrong with the unit."""


class CheckpointSaved(_Event):
    """A student's checkpoint is complete."""

    kind: Literal["checkpoint_saved"] = "checkpoint_saved"
    student: str
    step: int
    tokens: int
    loss: float


class EvaluationStarted(_Event):
    """Models are scored from now on."""

    kind: Literal["evaluation_started"] = "evaluation_started"
    units: int
    """Pairs of a model and a unit that are to be scored."""
    scored: int
    """Of them, those that an earlier attempt has scored."""


class ModelScored(_Event):
    """A process begins to score a model, on one domain or on several, or has scored a unit more."""

    kind: Literal["model_scored"] = "model_scored"
    model: str
    domain: str
    done: int = 0
    units: int = 0
    """Units that it has scored, of how many."""


class StudentScored(_Event):
    """What the report has of a specialist on the held-out text of its own domain."""

    kind: Literal["student_scored"] = "student_scored"
    student: str
    kl: float
    """KL(teacher ‖ student), nats a token."""
    kl_low: float
    """Lower end of its 95 % interval."""
    kl_high: float
    """Upper end likewise."""
    initial_kl: float | None = None
    """Of the weights that it started from; null where they were not scored."""
    retention: float | None = None
    """Its score over its teacher's on tasks, in the domain of the lowest lower bound; null without a gate."""
    passed: bool | None = None
    """Whether it passes the gate; null where there is none."""
    verdict: str = ""
    """What it is worth, in the report's sentences."""


Event = (
    Message
    | RunStarted
    | RunEnded
    | StageStarted
    | NodeJoined
    | NodeLeft
    | PlaceWanted
    | PlaceEnded
    | UnitsPlanned
    | CaptureStarted
    | ReplicaLoading
    | ReplicaReady
    | ReplicaAtWork
    | UnitCommitted
    | UnitDamaged
    | StudentState
    | StudentStep
    | FirstKlMeasured
    | StudentWaiting
    | CheckpointSaved
    | EvaluationStarted
    | ModelScored
    | StudentScored
)

_ONE: TypeAdapter[Event] = TypeAdapter(Annotated[Event, Field(discriminator="kind")])


def to_lines(events: Iterable[Event]) -> bytes:
    """Events as JSON, one a line."""
    return b"".join(event.__pydantic_serializer__.to_json(event) + b"\n" for event in events)


def from_lines(data: bytes) -> Iterator[Event]:
    """The inverse of `to_lines`. Raises ValueError for a line that is no event of this schema."""
    for line in data.splitlines():
        yield _ONE.validate_json(line)
