"""What the driver does about messages from replicas; without Ray, as nothing is left to capture."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.small_configuration import clinic

from cluster.lease import Lease
from orchestrator.driver.captures import Captures, CaptureStatus
from orchestrator.runs.context import RunContext
from orchestrator.runs.errors import RunFailed
from orchestrator.runs.folder import RunFolder
from workers.channels.events import Event, Message
from workers.channels.messages import CaptureStopped, ReplicaLost, UnitCaptured

LOST = ReplicaLost("teacher", "the process that leads a replica died")


@pytest.fixture
def told() -> list[Event]:
    return []


@pytest.fixture
def captures(tmp_path: Path, told: list[Event]) -> Iterator[Captures]:
    run = RunFolder(str(tmp_path))
    with Lease.take(run.storage, "the run") as lease:
        yield Captures(RunContext(run, clinic(), lease, told.append), {})


def test_nothing_to_capture_is_over_at_once_and_said(captures: Captures, told: list[Event]) -> None:
    assert captures.poll(captures.finished()) == CaptureStatus(placed=True, over=True)
    assert [type(event) for event in told] == [Message]


def test_what_stops_a_replica_stops_the_run(captures: Captures) -> None:
    with pytest.raises(RunFailed, match="out of disk"):
        captures.take(CaptureStopped("teacher", "out of disk"))


def test_replicas_lost_in_a_row_stop_the_run_and_a_unit_between_them_forgives(captures: Captures) -> None:
    for message in (LOST, LOST, UnitCaptured("teacher", "train", 0), LOST, LOST):
        captures.take(message)
    with pytest.raises(RunFailed, match="3 times in a row"):
        captures.take(LOST)


def test_losses_are_counted_by_teacher(captures: Captures) -> None:
    other = ReplicaLost("another", "its process died")
    for message in (LOST, other, LOST, other, UnitCaptured("another", "train", 0)):
        captures.take(message)
    with pytest.raises(RunFailed, match="3 times in a row"):
        captures.take(LOST)
