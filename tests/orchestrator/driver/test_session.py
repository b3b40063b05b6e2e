"""An attempt at a run: what it keeps, what it reads again, and what a driver that lost the run must not write."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from threading import Thread, Timer
from typing import Any

import psutil
import pytest
import ray
from support.project import Project

from cluster.holder import Holder
from cluster.lease import Lease, LeaseHeld
from orchestrator.driver.interrupts import interrupts
from orchestrator.driver.loop import watch
from orchestrator.driver.pipeline import measure_and_export
from orchestrator.driver.session import Session, open_leased
from orchestrator.monitors.base import Monitors
from orchestrator.monitors.jsonl import JsonlMonitor
from orchestrator.preflight.checks import Checked, check
from orchestrator.prompts.freezing.freeze import freeze
from orchestrator.runs.context import RunContext
from orchestrator.runs.errors import RunFailed, Stopped
from orchestrator.runs.events import read_events
from orchestrator.runs.folder import RunFolder
from orchestrator.status.listing import list_runs
from workers.channels.board import Board, Control, Reporter
from workers.channels.events import Message, RunEnded, StudentState
from workers.channels.messages import ControlMessage, StudentPlaced
from workers.layout import EventsLayout


@pytest.fixture(scope="module")
def board() -> Iterator[Any]:
    """A board in a Ray of this module's own."""
    ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield Board.options(name="board").remote()  # type: ignore[attr-defined]
    ray.shutdown()


@ray.remote(num_cpus=100)
def never() -> None:
    """It has no place."""


@contextmanager
def attempt(run: RunFolder, config: Any, board: Any = None) -> Iterator[Session]:
    with Lease.take(run.storage, "the run") as lease, Monitors([]) as monitors:
        ctx = RunContext(run, config, lease, monitors.take)
        with monitors.also(JsonlMonitor(run.storage, lease.epoch, ctx.holds_lease)):
            yield Session(ctx, Checked(), monitors, board)


def events(run: RunFolder) -> list[str]:
    return [event.text for event in read_events(run.storage) if isinstance(event, Message)]


# The two roads ------------------------------------------------------------------------------------------------


def test_events_are_shown_and_messages_steer(board: Any, project: Project, tmp_path: Path) -> None:
    run = RunFolder(str(tmp_path / "run"))
    with attempt(run, project.load().config, board) as session:
        sending = Thread(target=Control("board"), args=(StudentPlaced("medical"),))
        sending.start()
        Reporter("board")(Message(text="hello"))
        deadline = time.monotonic() + 30
        messages = session.poll(patience_s=1)
        while "hello" not in events(run) and time.monotonic() < deadline:
            messages += session.poll(patience_s=1)
            session.monitors.flush(force=True)
        messages += taken_from(session, sending)
    assert messages == [StudentPlaced("medical")] and events(run) == ["hello"]


def taken_from(session: Session, *sending: Thread) -> list[ControlMessage]:
    """What the driver takes until senders go on, as it has what they sent."""
    messages: list[ControlMessage] = []
    deadline = time.monotonic() + 60
    while any(thread.is_alive() for thread in sending) and time.monotonic() < deadline:
        messages += session.poll()
        time.sleep(0.05)
    assert not any(thread.is_alive() for thread in sending)
    return messages


def test_a_board_that_dies_loses_no_message(board: Any, project: Project, tmp_path: Path) -> None:
    """Two wait at the board when its process is killed, one of them with a message that was given out."""
    run = RunFolder(str(tmp_path / "run"))
    with attempt(run, project.load().config, board) as session:
        given, held = (Thread(target=Control("board"), args=(StudentPlaced(n),)) for n in ("given", "held"))
        given.start()
        deadline = time.monotonic() + 30
        while not (first := session.poll()) and time.monotonic() < deadline:
            time.sleep(0.05)
        held.start()
        time.sleep(0.3)
        (process,) = [p for p in psutil.Process().children(recursive=True) if "ray::Board" in " ".join(p.cmdline())]
        process.kill()
        after = taken_from(session, given, held)
    assert first == [StudentPlaced("given")]
    assert {m.student for m in after if isinstance(m, StudentPlaced)} >= {"held"}


def test_lost_events_lose_no_message(
    board: Any, project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STILLHOUSE_DROP", "events")
    run = RunFolder(str(tmp_path / "run"))
    with attempt(run, project.load().config, board) as session:
        Reporter("board")(Message(text="lost"))
        sending = Thread(target=Control("board"), args=(StudentPlaced("legal"),))
        sending.start()
        assert taken_from(session, sending) == [StudentPlaced("legal")]
    assert events(run) == []


def test_a_signal_while_the_driver_waits_for_ray_is_a_stop(board: Any) -> None:
    """Ray runs handlers inside its compiled code, and raises an error of its own in the place of theirs."""
    with pytest.raises(Stopped) as stop, interrupts():
        Timer(0.5, os.kill, (os.getpid(), signal.SIGTERM)).start()
        waiting = never.remote()
        for _ in range(100):
            ray.wait([waiting], timeout=0.25)
    assert stop.value.exit_code == 128 + signal.SIGTERM


def test_without_a_board_nothing_is_told_and_nothing_fails() -> None:
    Reporter("")(Message(text="to nobody"))
    Control("")(StudentPlaced("medical"))


# What is kept -------------------------------------------------------------------------------------------------


def test_the_wall_is_that_of_all_attempts(project: Project, tmp_path: Path) -> None:
    run = RunFolder(str(tmp_path / "run"))
    for number in (1, 2):
        with attempt(run, project.load().config) as session:
            session.ctx.say(f"attempt {number}")
            first = session.worked().timing.wall_s
            assert first <= session.worked().timing.wall_s
    walls = [run.read_json(EventsLayout(n).wall)["wall_s"] for n in (1, 2)]
    with attempt(run, project.load().config) as session:
        assert session.worked().timing.wall_s >= round(sum(walls), 2)
    assert events(run) == ["attempt 1", "attempt 2"]


def test_one_attempt_at_a_time(project: Project) -> None:
    file = project.load()
    with open_leased(file, []), pytest.raises(LeaseHeld), open_leased(file, []):
        pass


@pytest.mark.parametrize(
    ("error", "outcome", "cause"),
    [
        (None, "done", ""),
        (RunFailed("the teacher stopped:\nno place"), "failed", "the teacher stopped: no place"),
        (OSError("no space left"), "failed", "OSError: no space left"),
        (KeyboardInterrupt(), "stopped", ""),
        (Stopped(signal.SIGTERM), "stopped", ""),
    ],
)
def test_an_attempt_tells_how_it_ends(project: Project, error: BaseException | None, outcome: str, cause: str) -> None:
    file = project.load()
    with nullcontext() if error is None else pytest.raises(type(error)), open_leased(file, []) as session:
        session.ctx.come_to("prepare")
        session.ctx.report(StudentState(student="medical", state="done", tokens=9, budget=9))
        session.failures["legal"] = "loss is NaN"
        if error is not None:
            raise error
    run = RunFolder.of(file.located())
    *_, last = read_events(run.storage)
    assert isinstance(last, RunEnded) and (last.outcome, last.cause) == (outcome, cause)
    left = run.read_json(EventsLayout(1).wall)
    assert (left["stage"], left["done"], left["failures"]) == ("prepare", ["medical"], {"legal": "loss is NaN"})
    assert (left["outcome"], left["cause"]) == (outcome, cause) and left["cost"]["cpu_s"] >= 0
    [listed] = list_runs(file.located().storage)
    assert (listed.state, listed.stage) == ("failed" if outcome == "done" else outcome, "prepare")
    assert listed.done == 1 and listed.failures["legal"] == "loss is NaN"


def test_an_attempt_that_was_taken_over_tells_nothing_of_its_end(project: Project) -> None:
    file = project.load()
    run = RunFolder.of(file.located())
    with pytest.raises(RunFailed), open_leased(file, []) as session:
        take_over(run)
        session.ctx.require_lease()
    assert not [event for event in read_events(run.storage) if isinstance(event, RunEnded)]
    assert run.read_json(EventsLayout(1).wall) is None


# Sources are read once ----------------------------------------------------------------------------------------


def test_frozen_prompts_are_not_read_from_their_sources_again(project: Project) -> None:
    file = project.load()
    run, config = RunFolder.of(file.located()), file.located()
    run.open(file)
    first = check(file, frozen_will_do=True)
    assert first.screened and first.prompts
    freeze(config, run.uri, first.take_screened())
    assert not first.screened and not first.prompts
    for name in ("medical", "legal"):
        (project.folder / f"{name}.jsonl").unlink()
    again = check(file, frozen_will_do=True)
    assert not again.screened and again.tokenizer == first.tokenizer
    with pytest.raises(ValueError, match="no such file"):
        check(file)


def test_rows_read_by_the_checks_freeze_as_rows_read_by_the_freezer(project: Project, tmp_path: Path) -> None:
    project.rows("legal.jsonl", {"prompt": "the rule"}, {"prompt": 3}, {"prompt": "the rule"}, "no json")
    file = project.load()
    config = file.located()
    frozen = [freeze(config, str(tmp_path / "a"), check(file).take_screened()), freeze(config, str(tmp_path / "b"))]
    assert frozen[0] == frozen[1] and frozen[0]["rejected"] == 3
    files = [{p.name: p.read_bytes() for p in (tmp_path / x / "prompts").rglob("*") if p.is_file()} for x in "ab"]
    assert files[0] == files[1]


def test_a_new_specialists_domain_must_be_among_the_frozen_ones(project: Project) -> None:
    file = project.load()
    run = RunFolder.of(file.located())
    run.open(file)
    freeze(file.located(), run.uri)
    project.set("specialists.poet", {"mix": {"poetry": 1}})
    with pytest.raises(ValueError, match=r"specialists\.poet\.mix.*'poetry'"):
        check(project.load(), frozen_will_do=True)


# Taken over ---------------------------------------------------------------------------------------------------


def take_over(run: RunFolder) -> str:
    """Another driver has the run now; returns who."""
    holder = replace(Holder.this_process(), host="elsewhere", pid=7)
    assert run.storage.create("attempts/0002.json", holder.to_bytes())
    return f"attempt 1 was taken over by attempt 2 ({holder})"


def files(run: RunFolder) -> dict[str, float]:
    return {f.key: f.modified for f in run.storage.listing("") if not f.key.startswith("attempts/")}


def test_a_driver_that_was_taken_over_writes_no_events_and_no_report(project: Project, tmp_path: Path) -> None:
    run = RunFolder(str(tmp_path / "run"))
    with attempt(run, project.load().config) as session:
        session.save()
        session.ctx.say("never kept")
        before, who = files(run), take_over(run)
        writes: list[Callable[[], object]] = [session.save, session.worked, lambda: measure_and_export(session)]
        for write in writes:
            with pytest.raises(RunFailed) as caught:
                write()
            assert who in str(caught.value)
    assert files(run) == before


def test_a_driver_that_learns_of_it_by_its_beats_stops_watching(board: Any, project: Project, tmp_path: Path) -> None:
    run = RunFolder(str(tmp_path / "run"))
    with attempt(run, project.load().config, board) as session:
        session.ctx.require_lease(look=False)
        who = take_over(run)
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                session.ctx.require_lease(look=False)
            except RunFailed:
                break
            time.sleep(0.05)
        with pytest.raises(RunFailed) as caught:
            watch(session, None, None)
        assert who in str(caught.value)
    assert files(run) == {} and not run.storage.exists("attempts/0001.end.json")
    assert json.loads(run.storage.read("attempts/0002.json"))
