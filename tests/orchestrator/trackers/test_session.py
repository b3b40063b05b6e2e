"""Trackers of a run that is driven, from its configuration to their files; and one that is not there harms nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.project import Project
from support.toys.tracked_run import told_step, whole_run

from orchestrator.driver.session import open_leased
from workers.channels.events import Event, Message


class Keeping:
    """A monitor that keeps what a person would read."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def start(self) -> None: ...

    def take(self, event: Event) -> None:
        if isinstance(event, Message):
            self.said.append(event.text)

    def flush(self, *, force: bool = False) -> None: ...

    def stop(self) -> None: ...


def losses(folder: Path) -> list[int]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder))
    found.Reload()
    return [event.step for event in found.Scalars("train/loss")]


def test_two_attempts_tell_a_tracker_of_one_run_and_one_that_fails_is_named(project: Project) -> None:
    pytest.importorskip("tensorboard")
    pytest.importorskip("mlflow")
    near = {"every_s": 0, "finish_s": 60}
    project.set("trackers", {"tensorboard": near, "mlflow": near | {"uri": "http://127.0.0.1:9"}})
    folder, keeping = project.folder / "runs" / "trial", Keeping()
    with open_leased(project.load(), [keeping]) as session:
        for event in whole_run()[0]:
            session.ctx.report(event)
    assert losses(folder / "tensorboard" / "medical") == [1, 2, 3, 4, 5, 6]
    lacks = [text for text in keeping.said if text.startswith("tracker mlflow: 13 points")]
    assert len(lacks) == 1 and "127.0.0.1" in lacks[0]
    assert not [text for text in keeping.said if "tensorboard" in text]
    project.set("trackers", {"tensorboard": near})
    with pytest.raises(KeyError), open_leased(project.load(), [keeping]) as session:
        for event in [told_step("medical", step, 500.0 + step) for step in (5, 6, 7)]:
            session.ctx.report(event)
        session.monitors.flush(force=True)
        raise KeyError("a fault of the run")
    with open_leased(project.load(), [keeping]) as session:  # whatever the second one had no time for
        session.ctx.report(told_step("medical", 8, 600.0))
    assert losses(folder / "tensorboard" / "medical") == [1, 2, 3, 4, 5, 6, 7, 8]
