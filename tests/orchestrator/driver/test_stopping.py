"""A driver that is asked to leave through the storage, and one that takes a run over. Without Ray."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from support.project import Project

from cluster.lease import Lease, StopRequest, Timing, last_attempt
from cluster.stopping import ask_to_stop
from orchestrator.config.loading import ConfigFile
from orchestrator.driver.interrupts import Interrupts, interrupts
from orchestrator.driver.session import Session, open_leased
from orchestrator.runs.errors import Stopped
from orchestrator.runs.events import read_events
from orchestrator.runs.folder import RunFolder
from workers.channels.events import Message, RunEnded

BY = "host far-away, pid 4711, at noon"


@pytest.fixture(autouse=True)
def quick_beats(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leases whose holders look every tenth of a second."""
    take = Lease.take
    quick = Timing(beat_s=0.1)
    monkeypatch.setattr(Lease, "take", lambda storage, what, say=print, timing=quick: take(storage, what, say, quick))


def in_a_thread(*calls: threading.Thread) -> None:
    for call in calls:
        call.start()
        call.join()


def requested(found: Interrupts, *, now: bool = False) -> None:
    """As the lease's thread does it."""
    in_a_thread(threading.Thread(target=found.request, args=(BY,), kwargs={"now": now}))


def wait_a_while() -> None:
    """What a signal ends, and nothing else within a minute."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        time.sleep(0.05)


# What comes of a request --------------------------------------------------------------------------------------


def test_it_is_a_sigterm_where_nobody_looks() -> None:
    with pytest.raises(Stopped) as stop, interrupts() as found:
        requested(found)
        wait_a_while()
    assert (stop.value.exit_code, stop.value.by) == (128 + signal.SIGTERM, BY)


def test_who_looks_leaves_in_order_and_a_second_request_ends_that() -> None:
    with pytest.raises(Stopped) as stop, interrupts() as found, found.patient():
        requested(found)
        time.sleep(0.1)
        assert (found.asked, found.by) == (signal.SIGTERM, BY)
        requested(found, now=True)
        wait_a_while()
    assert stop.value.by == BY


def test_a_request_to_end_at_once_is_not_waited_with() -> None:
    with pytest.raises(Stopped), interrupts() as found, found.patient():
        requested(found, now=True)
        wait_a_while()


def test_a_signal_of_this_machine_is_told_from_a_request() -> None:
    with pytest.raises(Stopped) as stop, interrupts():
        os.kill(os.getpid(), signal.SIGINT)
        wait_a_while()
    assert (stop.value.exit_code, stop.value.by) == (128 + signal.SIGINT, "")


def test_the_outer_of_two_blocks_still_hears_when_the_inner_one_is_over() -> None:
    with pytest.raises(Stopped) as stop, interrupts() as found:
        with interrupts(found):
            pass
        requested(found)
        wait_a_while()
    assert stop.value.by == BY


def test_no_signal_is_sent_where_nobody_takes_it() -> None:
    """It would end the process: of a driver in a thread, and of one that has closed all and is about to end."""
    before = signal.getsignal(signal.SIGTERM)
    with interrupts() as found:
        pass
    requested(found)
    assert signal.getsignal(signal.SIGTERM) == before
    seen: list[Interrupts] = []

    def drive() -> None:
        with interrupts() as found:
            found.request(BY)
            with found.patient():
                found.check()
            with pytest.raises(Stopped, match="SIGTERM"):
                found.check()
            with found.patient():
                found.request(BY, now=True)
                with pytest.raises(Stopped, match="SIGTERM"):
                    found.check()
            seen.append(found)

    in_a_thread(threading.Thread(target=drive))
    assert seen and seen[0].asked == signal.SIGTERM


# A session ----------------------------------------------------------------------------------------------------


def run_of(file: ConfigFile) -> RunFolder:
    return RunFolder.of(file.located())


def test_a_driver_that_is_asked_through_the_storage_says_by_whom(project: Project) -> None:
    file = project.load()
    with pytest.raises(Stopped) as stop, open_leased(file, []) as session:
        last = last_attempt(session.ctx.run.storage)
        assert last is not None
        request = ask_to_stop(session.ctx.run.storage, last)
        wait_a_while()
    assert stop.value.by == str(request)
    events = list(read_events(run_of(file).storage))
    assert [event.outcome for event in events if isinstance(event, RunEnded)] == ["stopped"]
    assert [event.text for event in events if isinstance(event, Message)][-1].endswith(str(request))
    last = last_attempt(run_of(file).storage)
    assert last is not None and last.ended is not None


@contextmanager
def at_work(file: ConfigFile) -> Iterator[list[Session]]:
    """A driver in a thread, as one in a notebook, that leaves when it is asked to."""
    sessions: list[Session] = []
    over = threading.Event()

    def drive() -> None:
        try:
            with open_leased(file, []) as session:
                sessions.append(session)
                while not over.wait(0.05):
                    session.interrupts.check()
        except Stopped:
            pass

    thread = threading.Thread(target=drive)
    thread.start()
    try:
        deadline = time.monotonic() + 60
        while not sessions:
            assert thread.is_alive() and time.monotonic() < deadline
            time.sleep(0.01)
        yield sessions
    finally:
        over.set()
        thread.join()


def mark(file: ConfigFile) -> StopRequest | None:
    data = run_of(file).storage.read_many(["attempts/0001.stop.json"])[0]
    return None if data is None else StopRequest.from_bytes(data)


def test_a_configuration_with_one_specialist_more_takes_a_run_over(project: Project) -> None:
    with at_work(project.load()):
        project.set("specialists.young", {"mix": {"legal": 1}})
        with open_leased(project.load(), [], None, True) as session:
            assert session.ctx.epoch == 2
            assert set(session.ctx.config.specialists) == {"medical", "legal", "young"}
            asked = mark(project.load())
            assert asked is not None and asked.pid == os.getpid()


@pytest.mark.parametrize(
    ("setting", "value", "words"),
    [
        ("teacher.sampling.max_new_tokens", 9, "max_new_tokens: 8 -> 9"),
        ("specialists", {"medical": {"train": {"lr": 0.5}}}, "none is left to work on"),
        ("specialists.young", {"mix": {"poetry": 1}}, "poetry"),
    ],
)
def test_a_configuration_that_is_refused_stops_nobody(
    project: Project, setting: str, value: object, words: str
) -> None:
    begun = project.load()
    with at_work(begun):
        project.set(setting, value)
        with pytest.raises(ValueError, match=words), open_leased(project.load(), [], None, True):
            pass
        assert mark(begun) is None
        last = last_attempt(run_of(begun).storage)
        assert last is not None and (last.number, last.ended) == (1, None)
