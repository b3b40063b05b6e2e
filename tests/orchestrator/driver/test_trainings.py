"""What the driver does about students: places taken and lost, failures, and a supervisor that dies.

On a real Ray, with a supervisor that trains nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
from ray.util.placement_group import placement_group
from support.small_configuration import clinic

from cluster.lease import Lease
from orchestrator.driver import trainings
from orchestrator.driver.trainings import Trainings
from orchestrator.runs.context import RunContext
from orchestrator.runs.folder import RunFolder
from workers.channels.events import Event, Message, PlaceEnded, PlaceWanted, StudentState
from workers.channels.messages import StudentPlaced, StudentRestarted
from workers.targets.contract import Contract

DECLARED = Contract("tokenizer", "template", "systematic", 97, {"teacher": "f"})


@ray.remote(num_cpus=0, max_restarts=0)
class Waiting:
    """A supervisor whose students train until a file says how they end: empty, or with an error."""

    def train(self, jobs: list[dict[str, Any]], deadline_s: float) -> str | None:
        """Returns what the file `end-NAME` beside the run says."""
        folder, name = Path(jobs[0]["run_uri"]), jobs[0]["name"]
        (folder / f"began-{name}").touch()
        end, place = folder / f"end-{name}", None
        while not end.exists():
            if place is None and (folder / "make-place").exists():
                place = placement_group([{"CPU": 0.1}])
                (folder / f"place-{place.id.hex()}").touch()
            time.sleep(0.05)
        if (said := end.read_text()) == "raise":
            raise KeyError(said)
        return said or None


@pytest.fixture(scope="module", autouse=True)
def small_ray() -> Iterator[None]:
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()


@pytest.fixture
def told() -> list[Event]:
    return []


@pytest.fixture
def failures() -> dict[str, str]:
    return {}


@pytest.fixture
def training(
    tmp_path: Path, told: list[Event], failures: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Trainings]:
    """Two specialists, each with its control, that look for their places."""
    monkeypatch.setattr(trainings, "Supervisor", Waiting)
    run = RunFolder(str(tmp_path))
    with Lease.take(run.storage, "the run") as lease:
        made = Trainings(RunContext(run, clinic(), lease, told.append), [], DECLARED, failures, repairs=False)
        made.start()
        yield made
        for name in ("medical", "legal"):
            (tmp_path / f"end-{name}").touch()


def until(training: Trainings, what: Callable[[Any], bool]) -> Any:
    deadline = time.monotonic() + 60
    while not what(status := training.poll(training.finished())):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return status


def test_students_are_settled_when_each_group_has_its_place(training: Trainings) -> None:
    training.take(StudentPlaced("medical", "aa"))
    assert not training.poll([]).settled
    training.take(StudentPlaced("legal", "bb"))
    assert training.poll([]).settled and not training.poll([]).over
    training.take(StudentRestarted("legal"))
    assert not training.poll([]).settled
    training.take(StudentPlaced("legal.hard_labels"))  # it goes on in the middle of its group
    assert training.poll([]).settled


def test_who_looks_for_a_place_is_told_and_when_that_ends(
    training: Trainings, told: list[Event], tmp_path: Path
) -> None:
    training.take(StudentPlaced("medical", "aa"))
    training.take(StudentRestarted("medical"))
    training.take(StudentPlaced("medical", "bb"))
    training.take(StudentPlaced("medical", "bb"))  # a message may be seen twice
    for name in ("medical", "legal"):
        (tmp_path / f"end-{name}").touch()
    until(training, lambda status: status.over)
    wanted = [event.student for event in told if isinstance(event, PlaceWanted)]
    ended = [(event.student, event.found) for event in told if isinstance(event, PlaceEnded)]
    assert wanted == ["medical", "legal", "medical"]
    assert ended == [("medical", True), ("medical", True), ("legal", False)]


def test_a_failure_is_noted_and_the_others_go_on(
    training: Trainings, failures: dict[str, str], told: list[Event], tmp_path: Path
) -> None:
    (tmp_path / "end-legal").write_text("ValueError: no")
    until(training, lambda _: bool(failures))
    assert failures == {"legal": "ValueError: no"} and not training.poll([]).over
    assert [e.student for e in told if isinstance(e, StudentState) and e.state == "failed"] == ["legal"]
    (tmp_path / "end-medical").touch()
    assert until(training, lambda status: status.over) and failures.keys() == {"legal"}


def test_who_has_no_place_is_named_and_who_has_one_is_not(
    training: Trainings, told: list[Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainings, "_PATIENCE_S", 0.2)
    training.take(StudentPlaced("medical", "aa"))
    time.sleep(0.3)
    assert training.poll([]).settled, "patience has an end"
    pending = [e.text for e in told if isinstance(e, Message) and "pending" in e.text]
    assert len(pending) == 1 and pending[0].startswith("legal is pending")


def kill_supervisors() -> None:
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if "ray::Waiting" in " ".join(process.cmdline()):
                process.kill()


def test_supervisors_that_died_are_followed_by_others_until_it_is_of_no_use(
    training: Trainings, failures: dict[str, str], told: list[Event], tmp_path: Path
) -> None:
    """Each student has its own; its place, which Ray would keep, is freed."""
    until(training, lambda _: psutil.Process().children(recursive=True))
    (tmp_path / "make-place").touch()

    def told_again(_: Any) -> list[str]:
        return [e.text for e in told if isinstance(e, Message) and "started again" in e.text]

    until(training, lambda _: len(list(tmp_path.glob("place-*"))) == 2)
    places = {file.name.removeprefix("place-") for file in tmp_path.glob("place-*")}
    (tmp_path / "make-place").unlink()
    kill_supervisors()
    until(training, lambda status: len(told_again(status)) == 2)
    states = ray.util.placement_group_table()
    assert {states[place]["state"] for place in places} == {"REMOVED"}
    assert not failures and "medical" in "".join(told_again(None)) and "\n" not in told_again(None)[0]

    def over_once_killed(status: Any) -> bool:
        kill_supervisors()
        return status.over

    until(training, over_once_killed)
    assert failures.keys() == {"medical", "legal"}
    assert all(f"looks after the training of {name} died" in why for name, why in failures.items())


def test_only_so_many_train_at_once_and_the_first_by_priority(
    tmp_path: Path, told: list[Event], failures: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainings, "Supervisor", Waiting)
    config = clinic(fan_out={"at_once": 1}, specialists={"medical": {}, "legal": {"priority": 1}})
    run = RunFolder(str(tmp_path))
    with Lease.take(run.storage, "the run") as lease:
        training = Trainings(RunContext(run, config, lease, told.append), [], DECLARED, failures, repairs=False)
        training.start()
        until(training, lambda _: (tmp_path / "began-legal").exists())
        assert not training.poll([]).settled
        training.take(StudentPlaced("legal", "aa"))
        assert not training.poll([]).settled and not (tmp_path / "began-medical").exists()
        (tmp_path / "end-legal").touch()
        until(training, lambda _: (tmp_path / "began-medical").exists())
        (tmp_path / "end-medical").touch()
        assert until(training, lambda status: status.over)


def test_what_a_supervisor_raised_itself_fails_its_student_alone(
    training: Trainings, failures: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "end-legal").write_text("raise")
    until(training, lambda _: bool(failures))
    assert failures == {"legal": "KeyError: 'raise'"}
