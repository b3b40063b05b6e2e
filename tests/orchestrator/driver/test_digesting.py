"""Digests of the logs are made beside a capture, and what goes wrong with them is heard."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.small_configuration import clinic

from cluster.lease import Lease
from orchestrator.driver import digesting
from orchestrator.driver.digesting import Digesting
from orchestrator.runs.context import RunContext
from orchestrator.runs.folder import RunFolder
from workers.channels.events import Event, Message
from workers.targets.commits.log import TargetLog


@pytest.fixture
def told() -> list[Event]:
    return []


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Roots of the logs of which a digest was made."""
    made: list[str] = []
    monkeypatch.setattr(digesting, "ROWS", 3)
    monkeypatch.setattr(TargetLog, "digest", lambda log: made.append(log._layout.store))
    return made


@pytest.fixture
def under_test(tmp_path: Path, told: list[Event]) -> Iterator[Digesting]:
    run = RunFolder(str(tmp_path))
    with Lease.take(run.storage, "the run") as lease:
        yield Digesting(RunContext(run, clinic(), lease, told.append))


def settle(digests: Digesting, *, over: bool) -> None:
    deadline = time.monotonic() + 20
    while not digests.poll(over=over):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_one_is_made_whenever_it_would_be_full_and_at_the_end(under_test: Digesting, made: list[str]) -> None:
    for _ in range(2):
        under_test.note("train")
    under_test.note("heldout")
    settle(under_test, over=False)
    assert made == []
    under_test.note("train")
    settle(under_test, over=False)
    assert made == ["targets/train"]
    under_test.note("train")
    settle(under_test, over=True)
    assert made[1:] == ["targets/heldout", "targets/train"]
    settle(under_test, over=True)
    assert len(made) == 3  # nothing was captured since
    under_test.note("train")  # repaired, as a student found it damaged
    settle(under_test, over=True)
    assert len(made) == 4


def test_a_storage_that_fails_is_said_and_costs_no_run(
    under_test: Digesting, told: list[Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(log: TargetLog) -> Any:
        raise OSError("slow down")

    monkeypatch.setattr(TargetLog, "digest", fail)
    under_test.note("train")
    settle(under_test, over=True)
    assert [type(e) for e in told] == [Message] and "slow down" in str(told)


def test_any_other_failure_is_raised(under_test: Digesting, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(log: TargetLog) -> Any:
        raise ZeroDivisionError

    monkeypatch.setattr(TargetLog, "digest", fail)
    under_test.note("train")
    with pytest.raises(ZeroDivisionError):
        settle(under_test, over=True)
