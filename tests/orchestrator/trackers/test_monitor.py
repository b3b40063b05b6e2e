"""Trackers that fail, hang, or never answer: a run goes on as if they were not there, and says what they lack."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from support.programs import PROGRAMS
from support.toys.tracked_run import told_step, whole_run

from cluster.storage import LocalStorage
from orchestrator.config.trackers import MlflowConfig, TensorboardConfig, TrackerConfig
from orchestrator.monitors.base import Monitors
from orchestrator.monitors.jsonl import JsonlMonitor
from orchestrator.trackers import monitor as module
from orchestrator.trackers.monitor import TrackerMonitor, tracked
from orchestrator.trackers.points import Meter
from workers.channels.events import Message


class Watched:
    """A run of which a tracker is told; `said` are the lines that a person reads."""

    def __init__(self, folder: Path, kind: str, config: TrackerConfig | None = None) -> None:
        self.storage, self.kept = LocalStorage(folder / "run"), folder / "kept.jsonl"
        self.said: list[str] = []
        self.bad = folder / "kept.bad"
        config = config or TensorboardConfig(every_s=0.0, finish_s=30.0, stalled_s=60.0)
        own = (sys.executable, str(PROGRAMS / "own_tracker.py"), kind, str(self.kept))
        self.tracker = TrackerMonitor(
            **{
                "name": "mlflow" if kind == "" else "tensorboard",
                "config": config,
                "run": "clinic",
                "storage": self.storage,
            },
            **{"attempt": 1, "say": self.said.append, "program": own if kind else module.PROGRAM},
        )
        self.watching = Monitors([])
        self.log = JsonlMonitor(self.storage, 1)

    def tell(self, *events: object) -> None:
        for event in events:
            self.watching.take(event)  # type: ignore[arg-type]
        self.watching.flush(force=True)

    def points(self) -> list[tuple[str, int]]:
        lines = self.kept.read_text().splitlines() if self.kept.exists() else []
        return [(student, step) for student, step, _ in map(json.loads, lines)]

    def until(self, found: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 40
        while not found():
            assert time.monotonic() < deadline, self.said
            self.watching.flush()
            time.sleep(0.05)


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What failed is tried again soon; afterwards no process is left."""
    monkeypatch.setattr(module, "_AGAIN_S", (0.2, 0.5))
    yield
    assert not [p for p in psutil.Process().children(recursive=True) if "own_tracker.py" in " ".join(p.cmdline())]


STEPS = [told_step("medical", i, float(i)) for i in range(1, 9)]


def test_a_tracker_is_told_while_the_run_is_at_work_and_of_all_by_its_end(tmp_path: Path) -> None:
    run = Watched(tmp_path, "keeps")
    with run.watching, run.watching.also(run.log), tracked([run.tracker], run.watching):
        run.tell(*STEPS[:3])
        run.until(lambda: len(run.points()) == 3)
        run.watching.take(STEPS[3])  # not in the log yet when the run ends
    assert run.points() == [("medical", i) for i in range(1, 5)] and run.said == []


@pytest.mark.parametrize(("kind", "cause"), [("raises", "RuntimeError: quota exceeded"), ("hangs", "did not answer")])
def test_one_that_fails_for_a_while_says_so_once_and_loses_nothing(kind: str, cause: str, tmp_path: Path) -> None:
    run = Watched(tmp_path, kind, TensorboardConfig(every_s=0.0, finish_s=30.0, stalled_s=3.0))
    run.bad.touch()
    with run.watching, run.watching.also(run.log), tracked([run.tracker], run.watching):
        for event in STEPS[:4]:
            run.tell(event)
        run.until(lambda: bool(run.said))
        run.bad.unlink()
        run.tell(*STEPS[4:])
        run.until(lambda: len(run.points()) == len(STEPS))
    assert run.points() == [("medical", i) for i in range(1, 9)]
    assert len(run.said) == 1 and cause in run.said[0] and "tracker tensorboard failed" in run.said[0]


def test_one_whose_server_is_gone_costs_a_line_and_what_it_lacks_is_counted(tmp_path: Path) -> None:
    run = Watched(tmp_path, "gone")
    events = [event for attempt in whole_run() for event in attempt]
    with run.watching, run.watching.also(run.log), tracked([run.tracker], run.watching):
        run.tell(*events)
        run.until(lambda: bool(run.said))
        for _ in range(20):
            run.tell(Message(text="the run goes on"))
    failed, unsent = run.said
    assert "ConnectionError: nobody answers at nowhere:1" in failed and "the run goes on" in failed
    meter = Meter(0.0)
    count = len([point for event in events for point in meter.take(event)])
    assert f"{count} points (4 of the teachers, 6 of legal, 10 of medical) not sent" in unsent
    assert f"stillhouse track {run.storage.uri} --to tensorboard" in unsent and "nobody answers" in unsent


@pytest.mark.parametrize("ends", ["well", "in an error"])
def test_one_that_hangs_at_the_end_has_so_long_and_no_longer(
    ends: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_BROKEN_OFF_S", 3.0)
    run = Watched(tmp_path, "never-closes", TensorboardConfig(every_s=0.0, finish_s=3.0 if ends == "well" else 500.0))
    try:
        with run.watching, run.watching.also(run.log), tracked([run.tracker], run.watching):
            run.tell(*STEPS)
            run.until(lambda: len(run.points()) == len(STEPS))
            if ends != "well":
                raise KeyError("a fault of the run")
    except KeyError:
        assert ends != "well"
    assert run.said == ["tracker tensorboard: the end of the run is not confirmed (it was not done in time)"]


def test_a_process_that_cannot_be_begun_is_a_failure_like_others(tmp_path: Path) -> None:
    run = Watched(tmp_path, "keeps")
    run.tracker._command = [str(tmp_path / "no-such-program")]
    with run.watching, run.watching.also(run.log), tracked([run.tracker], run.watching):
        run.tell(*STEPS)
    assert "No such file" in run.said[0] and "8 points (8 of medical) not sent" in run.said[1]


def test_mlflow_without_a_server_harms_nothing(tmp_path: Path) -> None:
    """The library itself, and a port where nobody listens."""
    pytest.importorskip("mlflow")
    config = MlflowConfig(uri="http://127.0.0.1:9", every_s=0.0, finish_s=60.0)
    run = Watched(tmp_path, "", config)
    with run.watching, run.watching.also(run.log), tracked([run.tracker], run.watching):
        run.tell(*STEPS)
    assert "8 points (8 of medical) not sent" in run.said[-1] and "127.0.0.1" in run.said[-1]
